/** Admits as many concurrent requests as the process can finish in time, and refuses the rest; bounds concurrency. */
export { Admission, AdmissionModule } from './admission.js';
export { BatchLane } from './batch-lane.js';
export { byHalves } from './by-halves.js';
export { Lane } from './lane.js';
export { Limiter } from './limiter.js';
export { mapConcurrently } from './map-concurrently.js';
export { roundsOf } from './rounds.js';
