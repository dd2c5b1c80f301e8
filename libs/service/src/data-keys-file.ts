import { randomBytes } from 'node:crypto';
import { link, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const codeOf = (error: unknown): unknown => (error as NodeJS.ErrnoException).code;

/**
 * What stands in for DATA_KEYS, made where there is none yet. It is put in its place whole, and only if nobody was faster:
 * what was encrypted by way of one key cannot be read by way of another.
 */
export const readOrMakeDataKeys = async (dataDir: string, log: (line: string) => void): Promise<string> => {
  const file = join(dataDir, 'data-keys');
  const made = `${file}.${process.pid}.new`;
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
  try {
    await writeFile(made, `first:${randomBytes(32).toString('base64')}\n`, { mode: 0o600, flush: true });
    await link(made, file);
    log(
      `created the key that encrypts personal data and secrets, ${file}: without it they cannot be read; keep copies of it apart from the data`,
    );
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
  } finally {
    await rm(made, { force: true });
  }
  return (await readFile(file, 'utf8')).trim();
};
