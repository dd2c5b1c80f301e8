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

/** For each key the stored entry, or why it cannot be read. */
export type Page = (string | null | CacheUnavailable)[];

/** Batches reads from Redis: all keys read in one turn of the event loop go into one command, page by page. */
export class Reads {
  /** The keys to read at the end of this turn of the event loop. */
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
   * @returns the stored entries in the order of the keys, or why one cannot be read
   * @throws CacheUnavailable if no key can be read
   */
  async readMany(keys: readonly string[]): Promise<Page> {
    const found: Page = [];
    // One after the other, so that each page has its own deadline, however many there are.
    for (const page of pagesOf(keys)) {
      const read = await this.readPage(page);
      for (const stored of read) found.push(stored);
      const [first] = read;
      // If a single server is unavailable, the next pages would fail as well; in a cluster they may lie on other masters.
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
    const { asked, connection } = this;
    this.asked = new Map();
    const keys = [...asked.keys()];
    const isCluster = connection.redis.kind === 'cluster';
    // Callers do not know of each other, so none of them waits for a master that does not have its key.
    const apart = isCluster ? [...Map.groupBy(keys, (key) => connection.masterOf(key)).values()] : [keys];
    for (const page of apart.flatMap((it) => pagesOf(it)))
      void (isCluster ? this.readOfMaster(page) : this.readOfServer(page)).then((found) => {
        found.forEach((stored, at) => {
          const { resolve, reject } = asked.get(page[at]!)!;
          if (stored instanceof CacheUnavailable) reject(stored);
          else resolve(stored);
        });
      });
  }

  private readPage(keys: string[]): Promise<Page> {
    return this.connection.redis.kind === 'cluster' ? this.readOfCluster(keys) : this.readOfServer(keys);
  }

  private async readOfServer(keys: string[]): Promise<Page> {
    const { attempts, connection } = this;
    const { client } = connection.redis;
    try {
      return await attempts.attempt('read', undefined, (): Promise<Page> => client.mGet(keys));
    } catch (error) {
      return keys.map(() => error as CacheUnavailable);
    }
  }

  /** Reads the keys of each master separately, so that one that is down affects only its own keys. */
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

  /** The keys lie in many slots; the client pipelines commands to the same node. */
  private async readOfMaster(keys: string[]): Promise<Page> {
    const { attempts, connection } = this;
    const { client } = connection.redis;
    const ask = async (): Promise<Page> => {
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
    };
    const failureIn = (page: Page): unknown => page.find((it) => it instanceof CacheUnavailable)?.cause;
    try {
      return await attempts.attempt('read', keys[0], ask, failureIn);
    } catch (error) {
      return keys.map(() => error as CacheUnavailable);
    }
  }
}
