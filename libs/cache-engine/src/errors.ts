import { ErrorReply } from '@redis/client';

/** Redis cannot be asked at present, refuses that, or has not answered in time. Nothing is known of what became of a write. */
export class CacheUnavailable extends Error {
  readonly code = 'cache-unavailable';

  constructor(options?: ErrorOptions) {
    const isRefused = options?.cause instanceof ErrorReply;
    const what = isRefused ? 'Redis rejects commands from the cache' : 'The cache cannot reach Redis';
    super(`${what} at present. Try again shortly.`, options);
    this.name = 'CacheUnavailable';
  }
}

/** The source has taken longer than `timeouts.hard`, and its signal is aborted. What it gives later is kept by nobody. */
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

/** Of a counter that is not counted on. */
export const counterIsFull = `a counter ranges from ${Number.MIN_SAFE_INTEGER} to ${Number.MAX_SAFE_INTEGER}: this change would exceed that and was not made`;
