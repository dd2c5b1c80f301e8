const firstBackoffMs = 200;
const longestBackoffMs = 10_000;
/** Longer than anybody means; what is too long for a timer would be over at once. */
const longestWaitMs = 3_600_000;
/** The same of how long somebody may take, which can be `Infinity`. */
const longestTimerMs = 2 ** 31 - 1;

/**
 * How long to wait before the next try: longer every time, and anything from nothing to that, so that those who failed
 * together do not come back together (full jitter).
 *
 * @param failures how many tries have failed
 */
export const backoffMs = (failures: number): number =>
  Math.random() * Math.min(longestBackoffMs, firstBackoffMs * 2 ** (failures - 1));

/** What `Retry-After` (RFC 9110, 10.2.3) asks for, a number of seconds or a date; 0 where it says nothing. */
export const retryAfterMs = (headers: Headers): number => {
  const field = headers.get('retry-after')?.trim() ?? '';
  const ms = /^\d+$/.test(field) ? Number(field) * 1_000 : Date.parse(field) - Date.now();
  return Number.isNaN(ms) ? 0 : Math.min(Math.max(ms, 0), longestWaitMs);
};

/** @throws the reason of the signal, once that is aborted */
export const pause = async (ms: number, signal: AbortSignal | undefined): Promise<void> => {
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve();
    }, ms);
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    signal?.addEventListener('abort', abort, { once: true });
  });
};

/** What is awaited, where nobody listens to the signal; its reason once that is aborted. */
export const orAborted = <T>(awaited: T | Promise<T>, signal: AbortSignal): Promise<T> =>
  new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    if (signal.aborted) reject(signal.reason as Error);
    Promise.resolve(awaited).then(resolve, reject);
  });

/** An `AbortSignal` that follows another one and a clock which can be wound up again. */
export class Alarm {
  private readonly controller = new AbortController();
  private readonly follow = (): void => this.controller.abort(this.outer?.reason);
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly outer: AbortSignal | undefined) {
    if (outer?.aborted) this.follow();
    outer?.addEventListener('abort', this.follow, { once: true });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Goes off in so many milliseconds from now, and not when it would have. */
  windUp(ms: number): void {
    clearTimeout(this.timer);
    const goOff = (): void => this.controller.abort(new Error(`no answer within ${Math.ceil(ms)} ms`));
    this.timer = setTimeout(goOff, Math.min(ms, longestTimerMs));
  }

  /** Ends whatever still listens to it. */
  stop(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener('abort', this.follow);
    this.controller.abort();
  }
}
