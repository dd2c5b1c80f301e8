import { Body, Controller, Delete, Get, HttpCode, Put, Query, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { cacheEntryWritten, cacheKey, cacheMiss, cacheValue, putCacheEntryRequest } from '#contracts';
import { Endpoint, valid } from '#rest';
import { Cache, type WrittenEntry } from './cache.js';

const keyQuery = z.strictObject({ key: cacheKey.meta({ examples: ['greeting'] }) });

@ApiTags('cache')
@Controller('cache')
export class CacheController {
  constructor(private readonly cache: Cache) {}

  @Get()
  @Endpoint({
    operationId: 'getCacheEntry',
    summary: 'Read the value under a key',
    query: keyQuery,
    replies: {
      200: { schema: cacheValue, description: 'The value' },
      404: { schema: cacheMiss, description: 'The cache holds nothing under this key' },
    },
    errors: [],
  })
  async get(
    @Query(valid(keyQuery)) { key }: z.output<typeof keyQuery>,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<z.output<typeof cacheValue> | z.output<typeof cacheMiss>> {
    const hit = await this.cache.get('callers', key);
    if (hit) return hit;
    reply.status(404);
    return { error: 'key not found' };
  }

  @Put()
  @Endpoint({
    operationId: 'putCacheEntry',
    summary: 'Write a value under a key',
    request: putCacheEntryRequest,
    replies: { 200: { schema: cacheEntryWritten, description: 'What was written' } },
    errors: [],
  })
  put(
    @Body(valid(putCacheEntryRequest)) { key, value, ttl_ms }: z.output<typeof putCacheEntryRequest>,
  ): Promise<WrittenEntry> {
    return this.cache.put('callers', key, value, ttl_ms);
  }

  @Delete()
  @HttpCode(204)
  @Endpoint({
    operationId: 'deleteCacheEntry',
    summary: 'Forget a key',
    query: keyQuery,
    replies: { 204: { description: 'Nothing lies under the key now' } },
    errors: [],
  })
  async delete(@Query(valid(keyQuery)) { key }: z.output<typeof keyQuery>): Promise<void> {
    await this.cache.delete('callers', [key]);
  }
}
