/** The trace that a piece of work belongs to, from the request that began it to its events; and what is measured. */
export { Metrics, metricsType } from './metrics.js';
export { observeProcess } from './process-metrics.js';
export { currentTrace, traceparentOf, withTrace } from './traceparent.js';
