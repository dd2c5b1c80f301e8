import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { CacheStore } from './cache-store.js';

export interface WrittenEntry {
  key: string;
  version: string;
  expires_at: Date | null;
}

/** Whose keys they are. Nothing that a caller writes is ever taken for what a module keeps. */
type Owner = 'callers' | 'modules';

const storedAs = (owner: Owner, key: string): string => `${owner}:${key}`;

/** Reads, writes and forgets values of any JSON. */
@Injectable()
export class Cache {
  constructor(private readonly store: CacheStore) {}

  /** @returns `undefined` for a miss; a cached null is `{value: null}` */
  async get(owner: Owner, key: string): Promise<{ value: unknown } | undefined> {
    const entry = await this.store.get(storedAs(owner, key));
    return entry && { value: JSON.parse(entry.json) as unknown };
  }

  /** @param ttlMs how long the value stays; until it is evicted when left out */
  async put(owner: Owner, key: string, value: unknown, ttlMs?: number): Promise<WrittenEntry> {
    const version = randomUUID();
    const expiresAtMs = ttlMs === undefined ? null : Date.now() + ttlMs;
    await this.store.put(storedAs(owner, key), { json: JSON.stringify(value), version, expiresAtMs });
    return { key, version, expires_at: expiresAtMs === null ? null : new Date(expiresAtMs) };
  }

  async delete(owner: Owner, keys: readonly string[]): Promise<void> {
    await this.store.delete(keys.map((key) => storedAs(owner, key)));
  }
}
