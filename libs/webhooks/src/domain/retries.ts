const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/** The pause after each failure; the attempt after the last pause is the final one (Standard Webhooks). */
export const retryDelaysMs: readonly number[] = [
  ...[5 * second, 5 * minute, 30 * minute, 2 * hour, 5 * hour],
  ...[10 * hour, 14 * hour, 20 * hour, 24 * hour],
];

/** The longest pause, whatever an endpoint asks for. */
export const longestWaitMs = 24 * hour;

/** The result of sending a message. */
export interface Answer {
  /** Null if there was no response. */
  status: number | null;
  /** Why it failed; null if it did not. */
  error: string | null;
  /** The beginning of the response body. */
  snippet: string | null;
  retryAfter: string | null;
}

/** What becomes of a delivery. */
export interface Verdict {
  status: 'pending' | 'delivered' | 'failed';
  /** The pause before the next attempt, if it is pending. */
  waitMs: number;
  /** Why the endpoint is disabled; null if it is not. */
  disabledFor: string | null;
}

/**
 * @param failures how often the delivery has failed before
 * @param random from 0 to 1, for jitter: deliveries that failed together are not retried together
 */
export const verdictOn = (
  answer: Answer,
  failures: number,
  delaysMs: readonly number[],
  at: Date,
  random: number,
): Verdict => {
  if (answer.error === null) return { status: 'delivered', waitMs: 0, disabledFor: null };
  const disabledFor = answer.status === 410 ? 'it answered 410 Gone' : null;
  const delayMs = delaysMs[failures];
  if (delayMs === undefined) return { status: 'failed', waitMs: 0, disabledFor };
  const waitMs = Math.max(jittered(delayMs, random), Math.min(longestWaitMs, askedForMs(answer, at)));
  return { status: 'pending', waitMs: Math.round(waitMs), disabledFor };
};

/** Whether the endpoint is overloaded or unreachable, rather than refusing this one message. */
export const isStruggling = ({ status }: Answer): boolean => status === null || status === 429 || status >= 500;

/** @param random from 0 to 1, for jitter: deliveries that wait together are not retried together */
export const jittered = (delayMs: number, random: number): number => delayMs * (0.9 + random / 5);

/** The pause that `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3), if the status is 429 or 503. */
const askedForMs = ({ status, retryAfter }: Answer, at: Date): number => {
  if (retryAfter === null || (status !== 429 && status !== 503)) return 0;
  if (/^\d{1,10}$/.test(retryAfter)) return Number(retryAfter) * second;
  const date = retryAfter.endsWith('GMT') ? Date.parse(retryAfter) : Number.NaN;
  return Number.isNaN(date) ? 0 : Math.max(0, date - at.getTime());
};

/** Why an answer is a failure; null for one that is not. */
export const failureOf = (status: number): string | null => {
  if (status >= 200 && status < 300) return null;
  return status >= 300 && status < 400 ? `answered ${status}; redirects are not followed` : `answered ${status}`;
};
