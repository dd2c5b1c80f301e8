import type { Attempts } from './attempts.js';
import type { Connection } from './connection.js';
import { CacheUnavailable } from './errors.js';
import { pagesOf } from './pages.js';
import { within } from './within.js';

interface Asked {
  promise: Promise<string | null>;
  resolve: (stored: string | null) => void;
  reject: (error: unknown) => void;
}

/** Of each key what lies under it, or why it cannot be asked for. */
export type Page = (string | null | CacheUnavailable)[];

/** Reads out of Redis: what is asked for in one turn of the event loop goes in one question, a page at a time. */
export class Reads {
  /** What is to be asked for at the end of this turn of the event loop. */
  private asked = new Map<string, Asked>();

  constructor(
    private readonly connection: Connection,
    private readonly attempts: Attempts,
  ) {}

  /** @throws CacheUnavailable */
  read(key: string): Promise<string | null> {
    const known = this.asked.get(key);
    if (known) return known.promise;
    if (this.asked.size === 0) setImmediate(() => this.readAsked());
    const asked = Promise.withResolvers<string | null>();
    this.asked.set(key, asked);
    return asked.promise;
  }

  /**
   * @returns what lies under the keys, in their order, and why one of them cannot be asked for
   * @throws CacheUnavailable where that is so of all
   */
  async readMany(keys: readonly string[]): Promise<Page> {
    const found: Page = [];
    // One after the other: each has its time, however many there are.
    for (const page of pagesOf(keys)) {
      const read = await this.readPage(page);
      for (const stored of read) found.push(stored);
      const [first] = read;
      // One server that is away is so for the next ones too; of a cluster the next ones may lie elsewhere.
      if (this.connection.redis.kind === 'server' && first instanceof CacheUnavailable) {
        while (found.length < keys.length) found.push(first);
        break;
      }
    }
    const [first] = found;
    if (first instanceof CacheUnavailable && found.every((it) => it instanceof CacheUnavailable)) throw first;
    return found;
  }

  private readAsked(): void {
    const { asked } = this;
    this.asked = new Map();
    for (const page of pagesOf([...asked]))
      void this.readPage(page.map(([key]) => key)).then((found) => {
        found.forEach((stored, at) => {
          const [, { resolve, reject }] = page[at]!;
          if (stored instanceof CacheUnavailable) reject(stored);
          else resolve(stored);
        });
      });
  }

  private async readPage(keys: string[]): Promise<Page> {
    const { attempts, connection } = this;
    const { kind, client } = connection.redis;
    if (kind === 'cluster') return this.readOfCluster(keys);
    try {
      return await attempts.attempt('read', undefined, (): Promise<Page> => client.mGet(keys));
    } catch (error) {
      return keys.map(() => error as CacheUnavailable);
    }
  }

  /** The keys of each master for themselves: one that is away is so for nobody else's. */
  private async readOfCluster(keys: string[]): Promise<Page> {
    const found: Page = [];
    const places = Map.groupBy(keys.keys(), (at) => this.connection.masterOf(keys[at]!));
    await Promise.all(
      [...places.values()].map(async (ofMaster) => {
        const read = await this.readOfMaster(ofMaster.map((at) => keys[at]!));
        ofMaster.forEach((at, which) => (found[at] = read[which]!));
      }),
    );
    return found;
  }

  /** The keys lie in many slots; the client sends what goes to one node in one go. */
  private async readOfMaster(keys: string[]): Promise<Page> {
    const { attempts, connection } = this;
    const { client } = connection.redis;
    try {
      return await attempts.attempt('read', keys[0], async (): Promise<Page> => {
        const each = await Promise.allSettled(
          keys.map((key) =>
            within(attempts.deadlineMs / 2, 'read', async (hasEnded) => {
              await connection.connected(key, hasEnded);
              return client.get(key);
            }),
          ),
        );
        if (each.every((it) => it.status === 'rejected')) throw (each[0] as PromiseRejectedResult).reason;
        return each.map((it) =>
          it.status === 'fulfilled' ? it.value : new CacheUnavailable({ cause: it.reason as Error }),
        );
      });
    } catch (error) {
      return keys.map(() => error as CacheUnavailable);
    }
  }
}
