import { createRequire } from 'node:module';
import type * as RedisClient from '@redis/client';

const require = createRequire(import.meta.url);

/**
 * The Redis client, loaded when it is needed: it consists of hundreds of files, which would be a seventh of what each
 * process loads when it starts, with Redis or without.
 */
export const redisClient = (): typeof RedisClient => require('@redis/client') as typeof RedisClient;
