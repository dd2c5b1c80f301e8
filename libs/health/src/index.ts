/** Liveness, readiness, metrics and the log level. */
export { HealthModule } from './health.module.js';
export { LogsBehind, type LevelFound, type LogLevelChange, type Told } from './logs-behind.js';
export { MetricsModule } from './metrics.module.js';
export { Readiness, type Condition, type State } from './readiness.js';
