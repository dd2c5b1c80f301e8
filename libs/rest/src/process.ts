import { Logger } from '@nestjs/common';

const logger = new Logger('Process');

export interface ClosingOptions {
  /** What is stopped after the app, in this order: servers that the program started for itself. */
  after?: (() => Promise<unknown>)[];
  /** How long closing may take before the process ends anyway, in milliseconds. */
  patienceMs?: number;
}

/** What tells a process to stop: the last of them, that its terminal was closed. */
const stopSignals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/**
 * Until `closeOnSignals`, a signal ends the process and what ends with it: without anybody who listens it would be gone at once,
 * and leave a server behind that it has started.
 */
export const endOnSignals = (): void => {
  for (const signal of stopSignals) process.on(signal, () => process.exit(0));
};

/**
 * One wish to stop comes more than once where a whole group is told (Ctrl-C, systemd, timeout) and npm, or what sees its
 * shell end, passes it on. People do not press a key again that soon.
 */
const sameWishMs = 1_000;

/**
 * Closes the app at SIGTERM, SIGINT or SIGHUP and ends the process: with 0 when everything was closed, with 1 when something
 * failed, took too long, or a second signal came. Whoever has listened for them until now does not any more.
 */
export const closeOnSignals = (
  app: { close(): Promise<void> },
  { after = [], patienceMs = 30_000 }: ClosingOptions = {},
): void => {
  let closingSince: number | undefined;
  const close = async (signal: NodeJS.Signals): Promise<void> => {
    if (closingSince !== undefined) {
      if (performance.now() - closingSince < sameWishMs) return;
      logger.warn(`${signal} again: stopping at once.`);
      process.exit(1);
    }
    closingSince = performance.now();
    logger.log(`${signal}: finishing the work in flight. Another signal, more than a second later, stops at once.`);
    setTimeout(() => {
      logger.error(`Closing has taken longer than ${patienceMs} ms: stopping with work unfinished.`);
      process.exit(1);
    }, patienceMs).unref();
    let failed = false;
    for (const step of [() => app.close(), ...after]) {
      await step().catch((error: unknown) => {
        failed = true;
        logger.error('Closing failed', error instanceof Error ? error.stack : String(error));
      });
    }
    logger.log('Stopped.');
    process.exit(failed ? 1 : 0);
  };
  for (const signal of stopSignals) {
    const before = process.listeners(signal);
    process.on(signal, (received) => void close(received));
    for (const listener of before) process.off(signal, listener);
  }
};
