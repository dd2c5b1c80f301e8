/** Liveness, readiness, metrics and the log level. */
export { HealthModule } from './health.module.js';
export { UpstreamLogLevels, type LevelFound, type LogLevelChange, type Told } from './upstream-log-levels.js';
export { MetricsModule } from './metrics.module.js';
export { Readiness, type Condition, type State } from './readiness.js';
