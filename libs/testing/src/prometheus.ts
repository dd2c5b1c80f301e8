/** The values of series, by `name{label="value"}` with the labels in order. */
export type Samples = Map<string, number>;

const comment = /^# (HELP|TYPE) ([a-z_:][\w:]*) (.+)$/i;
const sample = /^([a-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/i;
const label = /([a-z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/giy;
const kinds = new Set(['counter', 'gauge', 'histogram', 'summary', 'untyped']);

/**
 * Parses the text format of Prometheus as strictly as it is specified. Labels of the instrumentation scope are left out.
 *
 * @see https://prometheus.io/docs/instrumenting/exposition_formats/
 * @throws Error that names the line that is invalid, repeated or in the wrong place
 */
export const samplesIn = (text: string): Samples => {
  if (!text.endsWith('\n')) throw new Error('the last line does not end');
  const samples: Samples = new Map();
  const series = new Set<string>();
  const types = new Map<string, string>();
  const said = new Set<string>();
  let family = '';
  for (const line of text.slice(0, -1).split('\n')) {
    if (line === '') continue;
    const refuse = (why: string): never => {
      throw new Error(`${why}: ${line}`);
    };
    const [, kind, about = '', rest = ''] = comment.exec(line) ?? [];
    if (kind) {
      if (said.has(`${kind} ${about}`)) refuse('said twice');
      said.add(`${kind} ${about}`);
      if (family !== about && types.has(about)) refuse('comes back to a family');
      family = about;
      if (kind === 'TYPE' && !kinds.has(rest)) refuse('no type');
      if (kind === 'TYPE') types.set(about, rest);
      continue;
    }
    const [, name, inBraces, written] = sample.exec(line) ?? refuse('no line of the format');
    const labels = labelsIn(inBraces ?? '') ?? refuse('no labels');
    const ofFamily = types.get(family) === 'histogram' ? name!.replace(/_(?:bucket|sum|count)$/, '') : name;
    if (ofFamily !== family) refuse('not of the family before it');
    if (types.get(family) === 'counter' && !family.endsWith('_total')) refuse('a counter by another name');
    const value = written === '+Inf' ? Number.POSITIVE_INFINITY : Number(written);
    if (Number.isNaN(value)) refuse('no number');
    if (series.has(`${name}{${inBraces}}`)) refuse('said twice');
    series.add(`${name}{${inBraces}}`);
    const own = labels.filter(([it]) => !it.startsWith('otel_scope_')).map(([it, is]) => `${it}="${is}"`);
    samples.set(own.length > 0 ? `${name}{${own.sort().join()}}` : name!, value);
  }
  return samples;
};

const labelsIn = (inBraces: string): [string, string][] | undefined => {
  const found = [...inBraces.matchAll(label)];
  return found.map(([all]) => all).join('') === inBraces ? found.map(([, name, value]) => [name!, value!]) : undefined;
};
