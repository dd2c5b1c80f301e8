/** Names of one word, such as PORT, are too common: other programs have variables that are spelled almost like them. */
const isParticular = (variable: string): boolean => variable.includes('_');

/**
 * Variables that are set, unknown and spelled almost like a known one that is not set. Short names must be closer:
 * two letters off `ORDER_AT` are too many names that could be meant.
 */
export const findMisspellings = (
  known: string[],
  source: Record<string, string | undefined>,
): { variable: string; meant: string }[] => {
  const missing = known.filter((variable) => isParticular(variable) && !source[variable]);
  return Object.keys(source)
    .filter((variable) => isParticular(variable) && source[variable] && !known.includes(variable))
    .flatMap((variable) => {
      const meant = missing.find((name) => distance(variable, name) <= (tailOf(name).length < 5 ? 1 : 2));
      return meant ? [{ variable, meant }] : [];
    });
};

const tailOf = (variable: string): string => variable.slice(variable.indexOf('_') + 1);

/** Insertions, deletions, replacements and swaps of neighbours that turn one word into the other. */
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
