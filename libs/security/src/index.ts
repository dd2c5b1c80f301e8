/** Authentication and scopes: keys, tokens, signed callers between processes; and the master keys that encrypt secrets. */
export { AuditLog, type NewAuditEntry } from './audit-log.js';
export { Authenticator } from './authenticator.js';
export { anybody, allow, countedAs, refuseWhenEnded, type Caller } from './caller.js';
export {
  exposureFaults,
  securityEnvironment,
  type Exposure,
  type RequestsFrom,
  type SecuritySettings,
} from './environment.js';
export { dataKeys } from './data-keys.js';
export { KeyRotation } from './key-rotation.js';
export { KeyDirectory, keyTextOf, secretHashOf, withoutKeySecrets, type KnownKey } from './keys.js';
export { MasterKeys, open, seal, type MasterKey } from './master-keys.js';
export { RateLimits, tooMany, type Standing } from './rate-limits.js';
export { ServiceSecrets } from './service-secrets.js';
export { callerHeader } from './signed-caller.js';
