/** What an application does in the background: now and then, or as soon as there is something to do. */
export { PeriodicWork } from './periodic-work.js';
export { WokenWork, type Rhythm } from './woken-work.js';
