const firstBackoffMs = 200;
const longestBackoffMs = 10_000;
/** The longest wait that a server can ask for. Without a limit, a wait that is too long for a timer would end at once. */
const longestWaitMs = 3_600_000;
/** The longest time of a timer, for timeouts that can be `Infinity`. */
const longestTimerMs = 2 ** 31 - 1;

/**
 * How long to wait before the next try: exponential backoff with full jitter, so that clients that failed together do not
 * come back together.
 *
 * @param failures how many tries have failed
 */
export const backoffMs = (failures: number): number =>
  Math.random() * Math.min(longestBackoffMs, firstBackoffMs * 2 ** (failures - 1));

/** How long `Retry-After` (RFC 9110, 10.2.3) asks to wait, in seconds or until a date; 0 if absent or invalid. */
export const retryAfterMs = (headers: Headers): number => {
  const field = headers.get('retry-after')?.trim() ?? '';
  const ms = /^\d+$/.test(field) ? Number(field) * 1_000 : Date.parse(field) - Date.now();
  return Number.isNaN(ms) ? 0 : Math.min(Math.max(ms, 0), longestWaitMs);
};

/** @throws the reason of the signal once it is aborted */
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

/** Makes something abortable that does not take a signal: rejects with the reason of the signal once it is aborted. */
export const orAborted = <T>(awaited: T | Promise<T>, signal: AbortSignal): Promise<T> =>
  new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    if (signal.aborted) reject(signal.reason as Error);
    Promise.resolve(awaited).then(resolve, reject);
  });

/** An `AbortSignal` that follows another one, and a timer that can be restarted. */
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

  /** Restarts the timer: it goes off this many milliseconds from now, and no longer at its earlier time. */
  windUp(ms: number): void {
    clearTimeout(this.timer);
    const goOff = (): void => this.controller.abort(new Error(`no answer within ${Math.ceil(ms)} ms`));
    this.timer = setTimeout(goOff, Math.min(ms, longestTimerMs));
  }

  /** Stops the timer, and aborts whatever still listens. */
  stop(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener('abort', this.follow);
    this.controller.abort();
  }
}
