/** Who asks and what they may do: keys, tokens, and what one process tells another about it. */
export { AuditLog, type NewAuditEntry } from './audit-log.js';
export { Authenticator } from './authenticator.js';
export { anybody, allow, countedAs, refuseWhenEnded, type Caller } from './caller.js';
export { doorFaults, securityEnvironment, type Door, type RequestsFrom, type SecuritySettings } from './environment.js';
export { KeyDirectory, keyIdIn, keyTextOf, secretHashOf, type KnownKey } from './keys.js';
export { RateLimits, tooMany, type Standing } from './rate-limits.js';
export { ServiceSecrets } from './service-secrets.js';
export { callerHeader } from './signed-caller.js';
