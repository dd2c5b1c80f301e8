import { createRequire } from 'node:module';

/** The Redis client, which is loaded only if it is used: it consists of hundreds of files. */
export const redisClient = (): typeof import('@redis/client') =>
  createRequire(import.meta.url)('@redis/client') as typeof import('@redis/client');
