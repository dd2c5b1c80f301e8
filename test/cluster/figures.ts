import { printTable } from '../fault/table.js';

/** Prints what was measured: a table for people, and a line of JSON for programs. */
export const printFigures = (engine: string, figures: readonly object[]): void => {
  printTable(`faults of ${engine}`, figures);
  process.stderr.write(`${JSON.stringify({ engine, figures })}\n`);
};
