import { ErrorReply } from '@redis/client/dist/lib/errors.js';

/** Redis cannot be reached, refuses the command, or has not answered in time. The outcome of a write is unknown. */
export class CacheUnavailable extends Error {
  readonly code = 'cache-unavailable';

  constructor(options?: ErrorOptions) {
    const isRefused = options?.cause instanceof ErrorReply;
    const what = isRefused ? 'Redis rejects commands from the cache' : 'The cache cannot reach Redis';
    super(`${what} at present. Try again shortly.`, options);
    this.name = 'CacheUnavailable';
  }
}

/** The source took longer than `timeouts.hard`. Its signal is aborted, and a value that it returns later is not cached. */
export class CacheLoadTimeout extends Error {
  readonly code = 'cache-load-timeout';

  constructor(
    readonly namespace: string,
    readonly timeoutMs: number,
  ) {
    super(
      `The source of ${namespace} gave no answer within ${timeoutMs} ms. Try again, or allow it more by timeouts.hard.`,
    );
    this.name = 'CacheLoadTimeout';
  }
}

/** The message for a step that would take a counter out of its range. */
export const counterIsFull = `a counter ranges from ${Number.MIN_SAFE_INTEGER} to ${Number.MAX_SAFE_INTEGER}: this change would exceed that and was not made`;
