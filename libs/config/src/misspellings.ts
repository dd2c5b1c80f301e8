/** Names of one word, such as PORT, are too common: other programs have variables with almost the same name. */
const isParticular = (variable: string): boolean => variable.includes('_');

/**
 * Variables that are set, unknown and spelled almost like a known one that is not set. Short names must be closer: two
 * letters off `ORDER_AT`, there are too many other names.
 */
export const findMisspellings = (known: string[], source: Source): Misspelling[] =>
  unknownIn(known, source, (variable, name) => {
    return isParticular(variable) && distance(variable, name) <= (tailOf(name).length < 5 ? 1 : 2);
  });

/**
 * Variables that are set, unknown and named similarly to a known one that is not set: with another unit or none
 * (`ORDER_HOLD_SECONDS`), with one more word (`ADMIN_KEY_FILE`), or with other case or underscores (`database_url`,
 * `ADMINKEY`). They may well be meant for another program, or for another version of this one.
 */
export const findNearNames = (known: string[], source: Source): Misspelling[] =>
  unknownIn(known, source, (variable, name) => {
    if (squeezed(variable) === squeezed(name)) return true;
    // OpenTelemetry reads further variables of its own.
    if (variable.startsWith('OTEL_')) return false;
    const [stem, own] = [stemOf(name), stemOf(variable)];
    return own === name || (isParticular(stem) && (own === stem || variable === stem));
  });

type Source = Record<string, string | undefined>;
interface Misspelling {
  variable: string;
  meant: string;
}

const unknownIn = (
  known: string[],
  source: Source,
  isLike: (variable: string, name: string) => boolean,
): Misspelling[] => {
  const missing = known.filter((variable) => isParticular(variable) && !source[variable]);
  return Object.entries(source)
    .filter(([variable, value]) => value && !known.includes(variable) && !isServiceLink(variable, value))
    .flatMap(([variable]) => {
      const meant = missing.find((name) => isLike(variable, name));
      return meant ? [{ variable, meant }] : [];
    });
};

/**
 * Variables that Kubernetes and Docker set in each container for neighbouring services, such as
 * `WEBHOOKS_PORT=tcp://10.0.0.7:3006`.
 */
const isServiceLink = (variable: string, value: string): boolean =>
  /_SERVICE_(?:HOST|PORT(?:_\w{1,63})?)$|_PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w{1,63})?$/.test(variable) ||
  (variable.endsWith('_PORT') && /^(?:tcp|udp|sctp):\/\//.test(value));

const squeezed = (variable: string): string => variable.replaceAll('_', '').toUpperCase();
const stemOf = (variable: string): string => variable.slice(0, Math.max(variable.lastIndexOf('_'), 0));
const tailOf = (variable: string): string => variable.slice(variable.indexOf('_') + 1);

/** The edit distance: insertions, deletions, replacements and swaps of neighbouring letters. */
const distance = (one: string, other: string): number => {
  let beforeLast: number[] = [];
  let last = Array.from({ length: other.length + 1 }, (_, column) => column);
  for (let row = 1; row <= one.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= other.length; column += 1) {
      const same = one[row - 1] === other[column - 1];
      const swapped = row > 1 && column > 1 && one[row - 1] === other[column - 2] && one[row - 2] === other[column - 1];
      current[column] = Math.min(
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (same ? 0 : 1),
        swapped ? (beforeLast[column - 2] ?? 0) + 1 : Infinity,
      );
    }
    beforeLast = last;
    last = current;
  }
  return last[other.length] ?? 0;
};
