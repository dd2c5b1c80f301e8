/** What tests need: real servers on free ports, stand-ins for Stripe and a trace collector, repeatable randomness. */
export * from './certificate.js';
export * from './collector.js';
export * from './database.js';
export * from './eventually.js';
export * from './nats.js';
export * from './or-skip.js';
export * from './ports.js';
export * from './prometheus.js';
export * from './redis.js';
export * from './redis-proxy.js';
export * from './seed.js';
export * from './source.js';
export * from './stripe.js';
export * from './unguessable.js';
