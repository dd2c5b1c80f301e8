import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { orSkip } from './or-skip.js';

const missing =
  'There is no gRPC of Python for the tests: install it (apt-get install python3-grpcio python3-protobuf, pip install grpcio protobuf)';

/** The Python that can speak gRPC: another one may come first on the PATH than the one that packages are installed for. */
export async function foreignPython(): Promise<string | undefined> {
  for (const python of ['python3', '/usr/bin/python3']) {
    const canImport = await promisify(execFile)(python, ['-c', 'import grpc, google.protobuf']).then(
      () => true,
      () => false,
    );
    if (canImport) return python;
  }
  return undefined;
}

/** For test files: `describe` where Python can speak gRPC (`orSkip`). */
export const foreignGrpcOrSkip = async <Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> =>
  orSkip((await foreignPython()) !== undefined, describe, missing);
