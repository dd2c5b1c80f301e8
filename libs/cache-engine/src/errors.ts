import { ErrorReply } from '@redis/client';

/** Redis cannot be asked at present, refuses that, or has not answered in time. Nothing is known of what became of a write. */
export class CacheUnavailable extends Error {
  constructor(options?: ErrorOptions) {
    const isRefused = options?.cause instanceof ErrorReply;
    const what = isRefused ? 'Redis refuses what the cache asks of it' : 'The cache cannot reach Redis';
    super(`${what} at present. Try again shortly.`, options);
    this.name = 'CacheUnavailable';
  }
}
