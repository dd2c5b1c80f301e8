/**
 * Whether an `Accept` header (RFC 9110, 12.5.1) prefers a media type over JSON: it gives the type a higher weight,
 * or the same weight and names it explicitly. Parameters other than the weight are ignored.
 *
 * @param wanted the media type, in lower case
 */
export const isAskedFor = (accept: string, wanted: string): boolean => {
  const weights = weightsIn(accept);
  const weight = weightOf(weights, wanted);
  const usually = weightOf(weights, 'application/json');
  return weight > 0 && (weight > usually || (weight === usually && weights.has(wanted)));
};

/** Weights by media range. If a range is listed more than once, its highest weight counts. */
const weightsIn = (accept: string): ReadonlyMap<string, number> => {
  const weights = new Map<string, number>();
  for (const element of accept.toLowerCase().split(',')) {
    const [range, ...parameters] = element.split(';').map((it) => it.trim());
    const named = parameters.find((it) => it.startsWith('q='));
    const weight = named === undefined ? 1 : Number(named.slice(2));
    // An invalid weight counts as not acceptable.
    if (weight >= 0 && weight <= 1) weights.set(range!, Math.max(weight, weights.get(range!) ?? 0));
  }
  return weights;
};

/** The weight of the most specific range that matches. */
const weightOf = (weights: ReadonlyMap<string, number>, type: string): number =>
  weights.get(type) ?? weights.get(`${type.slice(0, type.indexOf('/'))}/*`) ?? weights.get('*/*') ?? 0;
