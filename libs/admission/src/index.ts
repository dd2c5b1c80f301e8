/** Admits as many requests at once as can be done in good time, and refuses the rest. */
export { Admission, AdmissionModule } from './admission.js';
export { BatchLane } from './batch-lane.js';
export { byHalves } from './by-halves.js';
export { Lane } from './lane.js';
export { Limiter } from './limiter.js';
