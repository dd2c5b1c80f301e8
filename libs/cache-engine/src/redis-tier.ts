import { randomInt } from 'node:crypto';
import { Attempts } from './attempts.js';
import { Connection, rootsOf } from './connection.js';
import { CacheUnavailable } from './errors.js';
import { KeyScripts } from './key-scripts.js';
import { removeApart, unlessMoving } from './moving.js';
import { pagesOf } from './pages.js';
import { Reads, type Page } from './reads.js';
import { Sweeping, type Swept } from './sweeping.js';
import { Tracking, type Heard } from './tracking.js';
import { assertTimeout } from './within.js';

export interface RedisOptions {
  /** One server, `redis://host:port[/db]` or `rediss:`; or some masters of a cluster, `redis://host:port,host:port,…`. */
  url: string;
  /** The deadline of one call, in milliseconds. */
  deadlineMs?: number | undefined;
  /** Entries of this process are served only if Redis answered within this many milliseconds. */
  silenceMs?: number | undefined;
}

/** The kinds of keys. Invalidations are tracked for entries and tags, not for leases and counters. */
export const keyKinds = { entry: 'e', tag: 't', lease: 'l', counter: 'n' } as const;

/** A random start, so that a tag that is created anew never repeats one of its earlier versions. */
export const randomTagBase = (): number => randomInt(2 ** 47) * 2 ** 4;

type Pair = readonly [entry: string, lease: string];

interface Leased {
  isTaken: boolean;
  /** The value that was filled since. */
  stored: string | null;
}

/** The operations on Redis, the tier that all processes share. */
export class RedisTier {
  private readonly connection: Connection;
  private readonly tracking: Tracking;
  private readonly attempts: Attempts;
  private readonly reads: Reads;
  private readonly scripts: KeyScripts;
  private readonly sweeping: Sweeping;
  /** How long this process may go without hearing from Redis before what it has no longer counts as fresh. */
  readonly silenceMs: number;

  /** @param complain receives problems that no call reports: once when Redis becomes silent, once when it answers again */
  constructor(
    { url, deadlineMs = 200, silenceMs = 1_000 }: RedisOptions,
    prefixes: readonly string[],
    heard: Heard & { ended: (what: string, ms: number, error: unknown) => void },
    complain: (message: string) => void,
  ) {
    assertTimeout('redis.deadlineMs', deadlineMs, 1);
    assertTimeout('redis.silenceMs', silenceMs, 1);
    this.silenceMs = silenceMs;
    const connection = new Connection(url, deadlineMs, (time, askedAt) => this.tracking.setClockUnheard(time, askedAt));
    this.connection = connection;
    this.attempts = new Attempts(connection, deadlineMs, heard.ended, complain);
    this.reads = new Reads(connection, this.attempts);
    this.scripts = new KeyScripts(connection, this.attempts);
    this.sweeping = new Sweeping(connection, this.attempts, (tag) => this.tagVersion(tag, 0), complain);
    this.tracking = new Tracking(
      {
        url: rootsOf(url)[0]!,
        ...{ prefixes, silenceMs },
        masters: () => connection.masters(),
        isWhole: () => connection.isWhole(),
        lookAnew: () => connection.lookAnew(this.tracking.silent()),
      },
      heard,
      complain,
    );
  }

  /** Until when entries of this process may be served: later, a write elsewhere could have gone unnoticed for too long. */
  get heardUntil(): number {
    return this.tracking.heardUntil;
  }

  /** How far the clock of Redis, which all processes share, is ahead of `performance.now()`. */
  get clockAheadMs(): number {
    return this.tracking.clockAheadMs;
  }

  /** Connects in the background: the cache starts without Redis and uses it once it is available. */
  start(): void {
    this.connection.start();
    this.tracking.start();
  }

  stop(): void {
    this.tracking.stop();
    this.connection.stop();
  }

  /**
   * Reads of one turn of the event loop are batched.
   *
   * @returns the page that the key will be in, and its place there
   */
  read(key: string): { page: Promise<Page>; at: number } {
    return this.reads.read(key);
  }

  /**
   * @returns the stored entries in the order of the keys, or why one cannot be read
   * @throws CacheUnavailable if no key can be read
   */
  readMany(keys: readonly string[]): Promise<Page> {
    return this.reads.readMany(keys);
  }

  lease(entry: string, lease: string, token: string, ms: number, seen: string): Promise<Leased> {
    return this.scripts.ask('lease', [entry, lease, token, String(ms), seen]);
  }

  fill(entry: string, lease: string, token: string, stored: string, ms: number): Promise<boolean> {
    return this.scripts.ask('fill', [entry, lease, token, stored, String(ms)]);
  }

  /** @returns whether the lease is still held */
  renew(entry: string, lease: string, token: string, ms: number): Promise<boolean> {
    return this.scripts.ask('renew', [entry, lease, token, String(ms)]);
  }

  async release(entry: string, lease: string, token: string): Promise<void> {
    await this.scripts.ask('release', [entry, lease, token]);
  }

  /** @param ifVersion stores only over that version, `''` for none */
  put(entry: string, lease: string, stored: string, ms: number, ifVersion?: string): Promise<boolean> {
    return ifVersion === undefined
      ? this.scripts.ask('put', [entry, lease, stored, String(ms)])
      : this.scripts.ask('putIf', [entry, lease, stored, String(ms), ifVersion]);
  }

  /** @param version removes only that version, `''` for none */
  removeIf(entry: string, lease: string, version: string): Promise<boolean> {
    return this.scripts.ask('removeIf', [entry, lease, version]);
  }

  /** @param pairs entry and lease of each key, which lie in one slot */
  async remove(pairs: readonly Pair[]): Promise<void> {
    const { kind, client } = this.connection.redis;
    // One page at a time, because Redis serves no one else during a command.
    for (const page of pagesOf(pairs))
      if (kind === 'server') await this.attempts.attempt('remove', undefined, () => client.unlink(page.flat()));
      else {
        const ofMasters = Map.groupBy(page, ([entry]) => this.connection.masterOf(entry)).values();
        // Waits for all removals before a failure is reported, because the caller may then go on to something else.
        const removals = await Promise.allSettled([...ofMasters].map((it) => this.removeOfMaster(it)));
        for (const it of removals) if (it.status === 'rejected') throw it.reason;
      }
  }

  private removeOfMaster(pairs: readonly Pair[]): Promise<unknown> {
    const { client } = this.connection.redis;
    return this.attempts.attempt('remove', pairs[0]![0], (hasEnded) =>
      Promise.all(
        pairs.map(async (pair) => {
          await this.connection.connected(pair[0], hasEnded);
          return unlessMoving(client.remove(pair), () => removeApart(client, pair, hasEnded));
        }),
      ),
    );
  }

  count(key: string, step: number, ms: number): Promise<number> {
    const { connection } = this;
    return this.attempts.attempt('count', key, async (hasEnded) => {
      await connection.connected(key, hasEnded);
      return connection.redis.client.count(key, String(step), String(ms));
    });
  }

  /** @param step 0 to read the version */
  tagVersion(key: string, step: number): Promise<string> {
    const { connection } = this;
    const base = String(randomTagBase());
    return this.attempts.attempt('tag', key, async (hasEnded) => {
      await connection.connected(key, hasEnded);
      return connection.redis.client.tagVersion(key, base, String(step));
    });
  }

  /** Marks keys as used. Failures are ignored, because the keys are touched again soon. */
  async touch(keys: readonly string[]): Promise<void> {
    const { kind, client } = this.connection.redis;
    for (const page of pagesOf(keys)) {
      // In a cluster the keys lie in many slots.
      const each = kind === 'server' ? [page] : page.map((key) => [key]);
      await Promise.allSettled(each.map((some) => client.touch(some)));
    }
  }

  /** Deletes the entries and counters of a cleared namespace in the background. */
  sweep(space: Swept): void {
    this.sweeping.sweep(space);
  }

  /** @throws CacheUnavailable */
  async ping(): Promise<void> {
    const { attempts, connection } = this;
    const clients = await attempts.attempt('ping', undefined, () => connection.masterClients());
    if (!connection.isWhole())
      throw new CacheUnavailable({ cause: new Error('some slots of the cluster have no known master') });
    await attempts.attempt('ping', undefined, () => Promise.all(clients.map((it) => it.ping())));
  }
}
