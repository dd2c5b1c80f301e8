import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { orSkip } from './or-skip.js';

const missing =
  'There is no gRPC of Python for the tests: install it (apt-get install python3-grpcio python3-protobuf, pip install grpcio protobuf)';

/** The Python that has the packages for gRPC, which may not be the first one on the PATH. */
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

/** For test files: `describe` if there is a Python with gRPC (`orSkip`). */
export const foreignGrpcOrSkip = async <Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> =>
  orSkip((await foreignPython()) !== undefined, describe, missing);
