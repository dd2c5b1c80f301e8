import { Controller } from '@nestjs/common';
import { cacheContract, type ReplyOf, type RequestOf } from '#contracts';
import { Answers } from '#messaging';
import { Cache } from './cache.js';

type Operations = (typeof cacheContract)['operations'];

/** Answers the other modules. */
@Controller()
export class CacheMessages {
  constructor(private readonly cache: Cache) {}

  @Answers(cacheContract, 'get')
  async get({ key }: RequestOf<Operations['get']>): Promise<ReplyOf<Operations['get']>> {
    const hit = await this.cache.get('modules', key);
    return hit ? { found: true, ...hit } : { found: false };
  }

  @Answers(cacheContract, 'put')
  put({ key, value, ttl_ms }: RequestOf<Operations['put']>): Promise<ReplyOf<Operations['put']>> {
    return this.cache.put('modules', key, value, ttl_ms);
  }

  @Answers(cacheContract, 'delete')
  async delete({ keys }: RequestOf<Operations['delete']>): Promise<ReplyOf<Operations['delete']>> {
    await this.cache.delete('modules', keys);
    return {};
  }
}
