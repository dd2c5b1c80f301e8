/** Prints rows as a table to stderr, beside the output of jest. */
export const printTable = (title: string, rows: readonly object[]): void => {
  const columns = Object.keys(rows[0] ?? {});
  const cells = [columns, ...rows.map((row) => Object.values(row).map(String))];
  const widths = columns.map((_, at) => Math.max(...cells.map((row) => row[at]!.length)));
  const padded = (text: string, at: number): string =>
    at === 0 ? text.padEnd(widths[at]!) : text.padStart(widths[at]!);
  process.stderr.write([title, ...cells.map((row) => row.map(padded).join('  ')), ''].join('\n'));
};
