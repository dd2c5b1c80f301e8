/** Background work: repeated, or as soon as there is something to do; and helpers for retries and time limits. */
export { BackgroundWorker, type WorkerOptions } from './background-worker.js';
export { backoffMs } from './backoff.js';
export { cachedFor } from './cached-for.js';
export { PeriodicJob } from './periodic-job.js';
export { throttled } from './throttled.js';
export { throughParts } from './through-parts.js';
export { NoAnswer, within } from './within.js';
