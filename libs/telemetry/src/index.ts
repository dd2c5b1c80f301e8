/** How an app is observed: what it measures, the spans it makes, its log, and the work that all of them tell of. */
export { telemetryEnvironment, type TelemetrySettings } from './environment.js';
export { logLevels, type LogLevel } from './log-line.js';
export { ServiceLog, processLog } from './log.js';
export { Metrics, answerSeconds, metricsType } from './metrics.js';
export { observeProcess } from './process-metrics.js';
export { Traces, errorTypeOf, failed, traceparentFrom, withSpan } from './traces.js';
export { currentTrace, currentWork, noteOfWork, requestIdOf, traceparentOf, withWork, type Work } from './work.js';
