import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

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

/**
 * For test files: `describe` where Python can speak gRPC, `describe.skip` and a warning where not. In CI (`CI` is set)
 * that is an error, so that nothing is skipped unseen.
 */
export async function foreignGrpcOrSkip<Describe extends { skip: unknown }>(describe: Describe): Promise<Describe> {
  if (await foreignPython()) return describe;
  if (process.env['CI']) throw new Error(missing);
  process.stderr.write(`SKIPPED: ${missing}\n`);
  return describe.skip as Describe;
}
