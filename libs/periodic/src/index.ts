/** Background work: repeated, or as soon as there is something to do; and helpers for retries and time limits. */
export { keptFor } from './kept.js';
export { nowAndThen } from './now-and-then.js';
export { PeriodicWork } from './periodic-work.js';
export { throughParts } from './through-parts.js';
export { waitBeforeRetryMs } from './wait-before-retry.js';
export { NoAnswer, within } from './within.js';
export { WokenWork, type Rhythm } from './woken-work.js';
