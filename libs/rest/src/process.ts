import { Logger } from '@nestjs/common';

const logger = new Logger('Process');

export interface ClosingOptions {
  /** What to stop after the app, in this order: servers that this program started itself. */
  after?: (() => Promise<unknown>)[];
  /** How long closing may take before the process is ended, in milliseconds. */
  patienceMs?: number;
}

/** The signals that stop a process. SIGHUP means that its terminal was closed. */
const stopSignals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/**
 * Until `closeOnSignals` is called, a signal ends the process through its exit handlers. Without a listener, the process
 * would end at once and leave behind a running server that it has started.
 */
export const endOnSignals = (): void => {
  for (const signal of stopSignals) process.off(signal, end).on(signal, end);
};

const end = (): void => process.exit(0);

/**
 * One request to stop can arrive as several signals: a whole process group is signalled (Ctrl-C, systemd, timeout) and npm,
 * or a parent that sees its shell end, forwards the signal. A person does not press the key again that quickly.
 */
const sameWishMs = 1_000;

/**
 * Closes the app on SIGTERM, SIGINT or SIGHUP and ends the process: with 0 if everything was closed, with 1 if something
 * failed, closing took too long, or a second signal came. It takes over from `endOnSignals`.
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
  for (const signal of stopSignals) process.on(signal, (received) => void close(received)).off(signal, end);
};
