/** What an application does now and then, or as soon as there is something to do, however often it is asked. */
export { keptFor } from './kept.js';
export { nowAndThen } from './now-and-then.js';
export { PeriodicWork } from './periodic-work.js';
export { waitBeforeRetryMs } from './wait-before-retry.js';
export { WokenWork, type Rhythm } from './woken-work.js';
