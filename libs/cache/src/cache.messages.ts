import { Controller } from '@nestjs/common';
import { cacheContract, type ReplyOf, type RequestOf } from '#contracts';
import { Answers, JsonReply } from '#messaging';
import { Cache, batchJson, leasedJson } from './cache.js';

type Operations = (typeof cacheContract)['operations'];

const owner = 'modules';

/** Answers messages from other modules. */
@Controller()
export class CacheMessages {
  constructor(private readonly cache: Cache) {}

  @Answers(cacheContract, 'get')
  async get(request: RequestOf<Operations['get']>): Promise<ReplyOf<Operations['get']> | JsonReply> {
    const hit = await this.cache.get(owner, request);
    if (!hit) return { found: false };
    const { json, version, isStale } = hit;
    return new JsonReply(`{"found":true,"value":${json},"version":"${version}","is_stale":${isStale}}`);
  }

  @Answers(cacheContract, 'put')
  put(request: RequestOf<Operations['put']>): Promise<ReplyOf<Operations['put']>> {
    return this.cache.put(owner, request);
  }

  @Answers(cacheContract, 'lease')
  async lease(request: RequestOf<Operations['lease']>): Promise<JsonReply> {
    return new JsonReply(leasedJson(await this.cache.lease(owner, request)));
  }

  @Answers(cacheContract, 'delete')
  async delete(request: RequestOf<Operations['delete']>): Promise<ReplyOf<Operations['delete']>> {
    await this.cache.delete(owner, request);
    return {};
  }

  @Answers(cacheContract, 'batch')
  async batch(request: RequestOf<Operations['batch']>): Promise<JsonReply> {
    return new JsonReply(batchJson(await this.cache.batch(owner, request)));
  }

  @Answers(cacheContract, 'invalidate')
  async invalidate(request: RequestOf<Operations['invalidate']>): Promise<ReplyOf<Operations['invalidate']>> {
    await this.cache.invalidate(owner, request);
    return {};
  }

  @Answers(cacheContract, 'increment')
  increment(request: RequestOf<Operations['increment']>): Promise<ReplyOf<Operations['increment']>> {
    return this.cache.increment(owner, request);
  }

  @Answers(cacheContract, 'statistics')
  async statistics(): Promise<ReplyOf<Operations['statistics']>> {
    return this.cache.statistics();
  }
}
