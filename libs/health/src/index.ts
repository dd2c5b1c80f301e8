/** Whether the process lives, and whether it can serve. */
export { HealthModule } from './health.module.js';
export { Readiness, type Condition } from './readiness.js';
