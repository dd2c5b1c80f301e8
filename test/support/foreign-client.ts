import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { foreignPython } from '#testing';

const script = fileURLToPath(new URL('foreign_client.py', import.meta.url));

/** Lets Python's gRPC place, read, list and follow orders at an address. @returns the answers */
export const runForeignClient = async (job: {
  at: string;
  customer: string;
  product: string;
  key: string;
}): Promise<Record<string, Record<string, unknown> | undefined>> => {
  const python = await foreignPython();
  if (!python) throw new Error('No Python here can speak gRPC');
  const { stdout } = await promisify(execFile)(python, [script, JSON.stringify(job)]);
  return JSON.parse(stdout) as Record<string, Record<string, unknown>>;
};
