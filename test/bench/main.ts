import { readOptions, usage, WrongUsage, type Options } from './options.js';
import { runBenchmark } from './run.js';
import { Started } from './started.js';

const started = new Started();

/** Stops everything that was started, in order, and exits with the code. */
const end = async (code: number): Promise<void> => {
  if (started.isEnding) return;
  const failures = await started.stopAll();
  for (const failure of failures) process.stderr.write(`${String(failure)}\n`);
  process.exit(failures.length > 0 ? 1 : code);
};

const run = async (options: Options): Promise<void> => {
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      process.stderr.write('\nStopping what was started …\n');
      void end(130);
    });
  try {
    await end((await runBenchmark(options, started)) ? 0 : 1);
  } catch (error) {
    if (started.isEnding) return;
    process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
    await end(1);
  }
};

try {
  const options = readOptions(process.argv.slice(2));
  if (options === 'help') process.stdout.write(usage);
  else await run(options);
} catch (error) {
  if (!(error instanceof WrongUsage)) throw error;
  process.stderr.write(`${error.message} See --help.\n`);
  process.exitCode = 2;
}
