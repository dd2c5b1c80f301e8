import { replay } from './replay.js';

const stop = new AbortController();
// `once`, so that a second signal ends the process at once.
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    process.stderr.write('\nStopping: requests in flight are finished first.\n');
    stop.abort();
  });

process.exitCode = await replay(process.argv.slice(2), {
  out: process.stdout,
  err: process.stderr,
  stop: stop.signal,
});
