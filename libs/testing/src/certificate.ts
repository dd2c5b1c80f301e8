import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

export interface Certificate {
  /** For servers that read certificate and key from files. */
  files: { cert: string; key: string };
  cert: Buffer;
  key: Buffer;
  remove(): Promise<void>;
}

/** A certificate for 127.0.0.1 that no client trusts by default. */
export const selfSignedCertificate = async (): Promise<Certificate> => {
  const directory = await mkdtemp(join(tmpdir(), 'certificate-test-'));
  const files = { cert: join(directory, 'cert.pem'), key: join(directory, 'key.pem') };
  await promisify(execFile)('openssl', [
    ...['req', '-x509', '-nodes', '-days', '1', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'],
    ...['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', files.key, '-out', files.cert],
  ]);
  const [cert, key] = await Promise.all([readFile(files.cert), readFile(files.key)]);
  return { files, cert, key, remove: () => rm(directory, { recursive: true, force: true }) };
};
