import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { orSkip } from '#testing';

const run = promisify(execFile);
const script = fileURLToPath(new URL('foreign_client.py', import.meta.url));

/** The Python that has the packages for gRPC, which may not be the first one on the PATH. */
const foreignPython = async (): Promise<string | undefined> => {
  for (const python of ['python3', '/usr/bin/python3']) {
    const canImport = await run(python, ['-c', 'import grpc, google.protobuf']).then(
      () => true,
      () => false,
    );
    if (canImport) return python;
  }
  return undefined;
};

const python = await foreignPython();

/** For test files: `describe` if there is a Python with gRPC (`orSkip`). */
export const foreignGrpcOrSkip = <Describe extends { skip: unknown }>(describe: Describe): Describe =>
  orSkip(
    python !== undefined,
    describe,
    'There is no gRPC of Python for the tests: install it (apt-get install python3-grpcio python3-protobuf, pip install grpcio protobuf)',
  );

/** Lets Python's gRPC place, read, list and follow orders at an address. @returns the answers */
export const runForeignClient = async (job: {
  at: string;
  customer: string;
  product: string;
  key: string;
}): Promise<Record<string, Record<string, unknown> | undefined>> => {
  const { stdout } = await run(python!, [script, JSON.stringify(job)]);
  return JSON.parse(stdout) as Record<string, Record<string, unknown>>;
};
