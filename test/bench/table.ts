/** Formats rows of texts in columns: `leftColumns` are aligned left, the others, being numbers, right. */
export const tableOf = (head: readonly string[], rows: readonly (readonly string[])[], leftColumns = 1): string => {
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((row) => row[column]!.length)));
  const line = (row: readonly string[]): string =>
    row
      .map((text, column) => (column < leftColumns ? text.padEnd(widths[column]!) : text.padStart(widths[column]!)))
      .join('  ')
      .trimEnd();
  return [line(head), widths.map((it) => '-'.repeat(it)).join('  '), ...rows.map(line)].join('\n');
};

/** A number with three significant digits, or nothing if it is not finite. */
export const shown = (value: number): string => {
  if (!Number.isFinite(value)) return '';
  if (Math.abs(value) >= 100 || value === 0) return Math.round(value).toLocaleString('en');
  return value.toFixed(Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3);
};
