/** Whether the process lives, whether it can serve, and how it does. */
export { HealthModule } from './health.module.js';
export { LogsBehind, type LevelFound, type LogLevelChange, type Told } from './logs-behind.js';
export { MetricsModule } from './metrics.module.js';
export { Readiness, type Condition, type State } from './readiness.js';
