import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe } from '@jest/globals';
import { readFileLines, type FileLine } from '../../scripts/replay/file-line.js';

/** Real orders of four months; not part of the project, so tests that need them are skipped if they are missing. */
export const realFile = join(process.cwd(), '../shared/data/online-retail-2010-12_2011-03.csv.gz');
const hasRealFile = existsSync(realFile);

/** `describe` if the real file is there; otherwise a skipped one that says so. */
export const describeRealFile = (run: () => void): void =>
  (hasRealFile ? describe : describe.skip)(`the real file${hasRealFile ? '' : ` (skipped: no ${realFile})`}`, run);

/** A file in the Online Retail format. */
export const csv = (...rows: string[]): string =>
  `InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n${rows.join('\n')}\n`;

export const allLines = async (file: string): Promise<FileLine[]> => {
  const lines: FileLine[] = [];
  for await (const line of readFileLines(file)) lines.push(line);
  return lines;
};

/** The lines that the replay reads from such a file. */
export const linesOf = async (content: string): Promise<FileLine[]> => {
  const folder = await mkdtemp(join(tmpdir(), 'replay-'));
  try {
    await writeFile(join(folder, 'file.csv'), content);
    return await allLines(join(folder, 'file.csv'));
  } finally {
    await rm(folder, { recursive: true });
  }
};
