const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/** How long is waited after each failure; after as many there is one last attempt (Standard Webhooks). */
export const retryDelaysMs: readonly number[] = [
  ...[5 * second, 5 * minute, 30 * minute, 2 * hour, 5 * hour],
  ...[10 * hour, 14 * hour, 20 * hour, 24 * hour],
];

/** However long an endpoint asks us to wait. */
export const longestWaitMs = 24 * hour;

/** What came of sending a message. */
export interface Answer {
  /** Null where there was none. */
  status: number | null;
  /** Why it failed; null where it did not. */
  error: string | null;
  /** How the body began. */
  snippet: string | null;
  retryAfter: string | null;
}

/** What becomes of a delivery. */
export interface Verdict {
  status: 'pending' | 'delivered' | 'failed';
  /** Until the next attempt, of one that is pending. */
  waitMs: number;
  /** Why the endpoint is to get nothing any more. */
  disabledFor: string | null;
}

/**
 * @param failures how often the delivery has failed before
 * @param random from 0 to 1: those that failed together do not come back together
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

/** Whether the endpoint has more than it can bear, or is not there: not where it refuses the one message. */
export const isStruggling = ({ status }: Answer): boolean => status === null || status === 429 || status >= 500;

/** @param random from 0 to 1: those that wait together do not come back together */
export const jittered = (delayMs: number, random: number): number => delayMs * (0.9 + random / 5);

/** What `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3), where the status says that it means it. */
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
