/** When things are done: now and then, as soon as there is something to do, or within a time. */
export { keptFor } from './kept.js';
export { nowAndThen } from './now-and-then.js';
export { PeriodicWork } from './periodic-work.js';
export { waitBeforeRetryMs } from './wait-before-retry.js';
export { NoAnswer, within } from './within.js';
export { WokenWork, type Rhythm } from './woken-work.js';
