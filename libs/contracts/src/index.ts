/** The shared language of modules and callers: schemas, contracts, error codes, limits. No I/O, no framework. */
export * from './access.js';
export * from './audit.js';
export * from './cache.js';
export * from './errors.js';
export * from './events.js';
export * from './inventory.js';
export * from './operation.js';
export * from './order.js';
export * from './payment.js';
export * from './personal-data.js';
export * from './problem.js';
export * from './sales.js';
export * from './uuid.js';
export * from './values.js';
export * from './webhooks.js';
