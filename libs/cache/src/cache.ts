import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { CacheStore } from './cache-store.js';

export interface WrittenEntry {
  key: string;
  version: string;
  expires_at: Date | null;
}

/** Reads, writes and forgets values of any JSON. */
@Injectable()
export class Cache {
  constructor(private readonly store: CacheStore) {}

  /** @returns `undefined` for a miss; a cached null is `{value: null}` */
  async get(key: string): Promise<{ value: unknown } | undefined> {
    const entry = await this.store.get(key);
    return entry && { value: JSON.parse(entry.json) as unknown };
  }

  /** @param ttlMs how long the value stays; until it is evicted when left out */
  async put(key: string, value: unknown, ttlMs?: number): Promise<WrittenEntry> {
    const version = randomUUID();
    const expiresAtMs = ttlMs === undefined ? null : Date.now() + ttlMs;
    await this.store.put(key, { json: JSON.stringify(value), version, expiresAtMs });
    return { key, version, expires_at: expiresAtMs === null ? null : new Date(expiresAtMs) };
  }

  async delete(keys: readonly string[]): Promise<void> {
    await this.store.delete(keys);
  }
}
