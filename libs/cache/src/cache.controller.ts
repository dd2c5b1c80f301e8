import { Body, Controller, Delete, Get, Headers, HttpCode, Post, Put, Query, Res } from '@nestjs/common';
import { ApiHeader, ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { anyVersion, type ExpectedVersion } from '#cache-engine';
import {
  cacheBatch,
  cacheBatchRequest,
  cacheEntryWritten,
  cacheKey,
  cacheKeyLeased,
  cacheMiss,
  cacheNamespace,
  cacheStatistics,
  cacheValue,
  counter,
  incrementCounterRequest,
  invalidateCacheRequest,
  leaseCacheKeyRequest,
  putCacheEntryRequest,
  invalidRequest,
} from '#contracts';
import { CalledBy, Endpoint, JsonText, entityTagsIn, valid } from '#rest';
import type { Caller } from '#security';
import { Cache, batchJson, leasedJson, type JsonFound } from './cache.js';

const keyQuery = z.strictObject({ key: cacheKey.meta({ examples: ['greeting'] }), namespace: cacheNamespace });
const status = {
  'Cache-Status': '`cleave; hit; detail=stale` if the value may be out of date because Redis cannot be reached',
};
const etag = { ETag: 'The version of the value, for `If-Match` and `If-None-Match`' };
/** The `Cache-Status` of a stale value (RFC 9211). */
const stale = 'cleave; hit; detail=stale';
const miss = new JsonText(JSON.stringify({ error: 'key not found' } satisfies z.output<typeof cacheMiss>));

@ApiTags('cache')
@Controller('cache')
export class CacheController {
  constructor(private readonly cache: Cache) {}

  @Get()
  @Endpoint({
    scope: 'cache:read',
    operationId: 'getCacheEntry',
    summary: 'Read the value of a key',
    replies: {
      200: { schema: cacheValue, description: 'The value', headers: { ...etag, ...status } },
      304: { description: 'The value still has an `ETag` that `If-None-Match` names', headers: { ...etag, ...status } },
      404: { schema: cacheMiss, description: 'The cache holds nothing under this key' },
    },
    errors: [],
    isCalledDirectly: true,
  })
  @ApiHeader({
    name: 'If-None-Match',
    required: false,
    description: 'The `ETag` of the value that you have, or a list of them; answers 304 if it is still the value.',
  })
  get(
    @Query(valid(keyQuery)) query: z.output<typeof keyQuery>,
    @Headers('if-none-match') ifNoneMatch: string | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): JsonText | undefined | Promise<JsonText | undefined> {
    const found = this.cache.get(caller, query);
    // What is in this process is answered without a promise.
    if (!(found instanceof Promise)) return answerOf(found, ifNoneMatch, reply);
    return found.then((hit) => answerOf(hit, ifNoneMatch, reply));
  }

  @Put()
  @Endpoint({
    scope: 'cache:write',
    operationId: 'putCacheEntry',
    summary: 'Write the value of a key',
    replies: { 200: { schema: cacheEntryWritten, description: 'What was written', headers: etag } },
    errors: ['precondition-failed'],
  })
  @ApiHeader({
    name: 'If-Match',
    required: false,
    description:
      'Writes only if the present value has this `ETag`, or one of a list; `*` writes only if the key has a value.',
  })
  @ApiHeader({ name: 'If-None-Match', required: false, description: '`*` writes only if the key has no value.' })
  async put(
    @Body(valid(putCacheEntryRequest)) body: z.output<typeof putCacheEntryRequest>,
    @Headers('if-match') ifMatch: string | undefined,
    @Headers('if-none-match') ifNoneMatch: string | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof cacheEntryWritten>> {
    const entry = await this.cache.put(caller, { ...body, if_version: expectedVersion(ifMatch, ifNoneMatch) });
    reply.header('ETag', `"${entry.version}"`);
    return entry;
  }

  @Delete()
  @HttpCode(204)
  @Endpoint({
    scope: 'cache:write',
    operationId: 'deleteCacheEntry',
    summary: 'Delete the value of a key',
    replies: { 204: { description: 'The key has no value now' } },
    errors: ['precondition-failed'],
  })
  @ApiHeader({
    name: 'If-Match',
    required: false,
    description:
      'Deletes only if the present value has this `ETag`, or one of a list; `*` answers 412 if the key has no value.',
  })
  @ApiHeader({
    name: 'If-None-Match',
    required: false,
    description: '`*` answers 412 instead of deleting if the key has a value.',
  })
  async delete(
    @Query(valid(keyQuery)) { key, namespace }: z.output<typeof keyQuery>,
    @Headers('if-match') ifMatch: string | undefined,
    @Headers('if-none-match') ifNoneMatch: string | undefined,
    @CalledBy() caller: Caller,
  ): Promise<void> {
    await this.cache.delete(caller, { keys: [key], namespace, if_version: expectedVersion(ifMatch, ifNoneMatch) });
  }

  @Post('batch')
  @HttpCode(200)
  @Endpoint({
    scope: 'cache:write',
    operationId: 'cacheBatch',
    summary: 'Delete, write and read many keys',
    description:
      'Deletes first, then writes, then reads. Each key is handled on its own: this is not a transaction. The values that are ' +
      'read may have 16 Mi characters together; beyond that the answer is 413, after the deletes and writes were carried out. If ' +
      'Redis, or a master of its cluster that has one of the keys, cannot be reached, the answer is 503, and some of the ' +
      'deletes and writes may have been carried out. A repeat deletes and writes the same keys again, also what others have ' +
      'written in the meantime.',
    replies: { 200: { schema: cacheBatch, description: 'The values found and the values written' } },
    errors: [],
  })
  async batch(
    @Body(valid(cacheBatchRequest)) body: z.output<typeof cacheBatchRequest>,
    @CalledBy() caller: Caller,
  ): Promise<JsonText> {
    return new JsonText(batchJson(await this.cache.batch(caller, body)));
  }

  @Post('lease')
  @HttpCode(200)
  @Endpoint({
    scope: 'cache:write',
    operationId: 'leaseCacheKey',
    summary: 'Read the value of a key, or get a lease to fill it',
    description:
      'On a miss, one caller at a time gets a lease. It loads the value and writes it with the lease (`PUT ' +
      '/cache`). The write is refused if the key was written or invalidated in the meantime, so a stale value ' +
      'never gets in, however long loading takes.',
    replies: { 200: { schema: cacheKeyLeased, description: 'The value, or a lease' } },
    errors: [],
  })
  async lease(
    @Body(valid(leaseCacheKeyRequest)) body: z.output<typeof leaseCacheKeyRequest>,
    @CalledBy() caller: Caller,
  ): Promise<JsonText> {
    return new JsonText(leasedJson(await this.cache.lease(caller, body)));
  }

  @Post('invalidate')
  @HttpCode(204)
  @Endpoint({
    scope: 'cache:write',
    operationId: 'invalidateCache',
    summary: 'Invalidate entries by tag, or a whole namespace',
    replies: { 204: { description: 'These entries are no longer served' } },
    errors: [],
  })
  async invalidate(
    @Body(valid(invalidateCacheRequest)) body: z.output<typeof invalidateCacheRequest>,
    @CalledBy() caller: Caller,
  ): Promise<void> {
    await this.cache.invalidate(caller, body);
  }

  @Post('counters')
  @HttpCode(200)
  @Endpoint({
    scope: 'cache:write',
    operationId: 'incrementCounter',
    summary: 'Increment or decrement a counter',
    description:
      'Counters and values are separate: a key can have both. A step that would lead beyond ±9007199254740991 is refused with ' +
      '400, and the counter stays as it is.',
    replies: { 200: { schema: counter, description: 'The counter after the change' } },
    errors: [],
  })
  increment(
    @Body(valid(incrementCounterRequest)) body: z.output<typeof incrementCounterRequest>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof counter>> {
    return this.cache.increment(caller, body);
  }

  @Get('stats')
  @Endpoint({
    scope: 'operator',
    operationId: 'getCacheStatistics',
    summary: 'Read statistics of the cache',
    replies: { 200: { schema: cacheStatistics, description: 'Of this process, since it started' } },
    errors: [],
  })
  statistics(): z.output<typeof cacheStatistics> {
    return this.cache.statistics();
  }
}

/** @returns undefined if the caller has the value already */
const answerOf = (
  hit: JsonFound | undefined,
  ifNoneMatch: string | undefined,
  reply: FastifyReply,
): JsonText | undefined => {
  if (!hit) {
    reply.status(404);
    return miss;
  }
  reply.header('ETag', `"${hit.version}"`);
  if (hit.isStale) reply.header('Cache-Status', stale);
  if (ifNoneMatch !== undefined && isNamed(hit.version, ifNoneMatch)) {
    reply.status(304);
    return undefined;
  }
  return new JsonText(`{"value":${hit.json}}`);
};

/** @returns the version that must exist; `undefined` if there is no condition */
const expectedVersion = (ifMatch: string | undefined, ifNoneMatch: string | undefined): ExpectedVersion | undefined => {
  if (ifMatch === undefined && ifNoneMatch === undefined) return undefined;
  if (ifMatch === undefined && ifNoneMatch?.trim() === '*') return null;
  const told = ifNoneMatch === undefined ? ifMatch!.trim() : '';
  if (told === '*') return anyVersion;
  const tags = entityTagsIn(told);
  // A weak tag never matches, because it does not guarantee that the value is the same.
  if (tags) return tags.flatMap((tag) => (tag.startsWith('W/') ? [] : tag.slice(1, -1)));
  throw invalidRequest(
    'If-Match',
    'must be * or a comma-separated list of entity tags; If-None-Match: * writes only if the key has no value',
  );
};

/** Weak comparison (RFC 9110, 13.1.2). A malformed header matches nothing. */
const isNamed = (version: string, ifNoneMatch: string): boolean =>
  ifNoneMatch.trim() === '*' ||
  entityTagsIn(ifNoneMatch)?.some((tag) => tag.replace(/^W\//, '') === `"${version}"`) === true;
