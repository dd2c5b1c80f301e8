/** Metrics, traces and logs, and the current request or job that all of them refer to. */
export type { Durations } from './durations.js';
export { telemetryEnvironment, type TelemetrySettings } from './environment.js';
export { logLevels, type LogLevel } from './log-line.js';
export { processLog } from './log.js';
export { Metrics, answerSeconds, metricsType } from './metrics.js';
export { observeProcess } from './process-metrics.js';
export { RequestLog } from './request-log.js';
export { Traces, errorTypeOf, failed, traceparentFrom, withSpan } from './traces.js';
export { annotateWork, currentTrace, currentWork, requestIdOf, traceparentOf, withWork, type Work } from './work.js';
