/** Rows of texts in columns: the first to the left, the others, being numbers, to the right. */
export const tableOf = (head: readonly string[], rows: readonly (readonly string[])[], leftColumns = 1): string => {
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string =>
    row
      .map((text, column) => (column < leftColumns ? text.padEnd(widths[column]!) : text.padStart(widths[column]!)))
      .join('  ')
      .trimEnd();
  return [line(head), widths.map((it) => '-'.repeat(it)).join('  '), ...rows.map(line)].join('\n');
};

/** A number as a person reads it: three figures, and nothing where there is nothing. */
export const shown = (value: number): string => {
  if (!Number.isFinite(value)) return '';
  if (Math.abs(value) >= 100 || value === 0) return Math.round(value).toLocaleString('en');
  return value.toFixed(Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3);
};
