/**
 * Whether `Accept` (RFC 9110, 12.5.1) asks for a type of media rather than for the usual one: it wants it more, or as much
 * and names it. Parameters other than the weight make no difference.
 *
 * @param wanted and `usual` in lower case
 */
export const isAskedFor = (accept: string, wanted: string, usual: string): boolean => {
  const weights = weightsIn(accept);
  const weight = weightOf(weights, wanted);
  const usually = weightOf(weights, usual);
  return weight > 0 && (weight > usually || (weight === usually && weights.has(wanted)));
};

/** By range; the highest where one is named several times. */
const weightsIn = (accept: string): ReadonlyMap<string, number> => {
  const weights = new Map<string, number>();
  for (const element of accept.toLowerCase().split(',')) {
    const [range, ...parameters] = element.split(';').map((it) => it.trim());
    const named = parameters.find((it) => it.startsWith('q='));
    const weight = named === undefined ? 1 : Number(named.slice(2));
    // One that cannot be a weight wants nothing.
    if (weight >= 0 && weight <= 1) weights.set(range!, Math.max(weight, weights.get(range!) ?? 0));
  }
  return weights;
};

/** Of the range that says most of it. */
const weightOf = (weights: ReadonlyMap<string, number>, type: string): number =>
  weights.get(type) ?? weights.get(`${type.slice(0, type.indexOf('/'))}/*`) ?? weights.get('*/*') ?? 0;
