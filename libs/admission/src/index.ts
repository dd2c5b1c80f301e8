/** Admits as many concurrent requests as the process can finish in time, and refuses the rest; bulkheads and batches. */
export { Admission, AdmissionModule } from './admission.js';
export { bisect, isOutage } from './bisect.js';
export { Bulkhead } from './bulkhead.js';
export { Limiter } from './limiter.js';
export { mapConcurrently } from './map-concurrently.js';
export { roundsOf } from './rounds.js';
export { SerialBatcher } from './serial-batcher.js';
