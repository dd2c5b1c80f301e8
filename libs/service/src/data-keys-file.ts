import { randomBytes } from 'node:crypto';
import { link, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const codeOf = (error: unknown): unknown => (error as NodeJS.ErrnoException).code;

/**
 * The keys used if DATA_KEYS is not set, created on first use. The file is linked into place once it is complete, and only
 * if no other process was faster: data encrypted under one key cannot be decrypted with another.
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
