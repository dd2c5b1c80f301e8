import type { Attempts } from './attempts.js';
import type { Connection } from './connection.js';
import { CacheUnavailable } from './errors.js';
import { largestPage, pagesOf } from './pages.js';
import { within } from './within.js';

/** For each key the stored entry, or why it cannot be read. */
export type Page = (string | null | CacheUnavailable)[];

type Server = Extract<Connection['redis'], { kind: 'server' }>['client'];

/** Keys that are read together, and the answer, which all callers wait for: a promise per key would cost more than the key. */
class AskedPage {
  readonly places = new Map<string, number>();
  readonly answer = Promise.withResolvers<Page>();
}

/** Batches reads from Redis: all keys read in one turn of the event loop go into one command, page by page. */
export class Reads {
  /**
   * The pages to read at the end of this turn of the event loop. In a cluster, each master has its own: callers do not know
   * of each other, so none of them waits for a master that does not have its key.
   */
  private readonly asked = new Map<object | undefined, AskedPage>();

  constructor(
    private readonly connection: Connection,
    private readonly attempts: Attempts,
  ) {}

  /** @returns the page that the key will be in, and its place there */
  read(key: string): { page: Promise<Page>; at: number } {
    const { asked, connection } = this;
    const master = connection.masterOf(key);
    let page = asked.get(master);
    if (!page || page.places.size === largestPage) {
      page = this.newPage(master);
      asked.set(master, page);
    }
    const { places, answer } = page;
    let at = places.get(key);
    if (at === undefined) {
      at = places.size;
      places.set(key, at);
    }
    return { page: answer.promise, at };
  }

  private newPage(master: object | undefined): AskedPage {
    const page = new AskedPage();
    setImmediate(() => {
      if (this.asked.get(master) === page) this.asked.delete(master);
      const keys = [...page.places.keys()];
      const { redis } = this.connection;
      page.answer.resolve(redis.kind === 'cluster' ? this.readOfMaster(keys) : this.readOfServer(redis.client, keys));
    });
    return page;
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

  private readPage(keys: string[]): Promise<Page> {
    const { redis } = this.connection;
    return redis.kind === 'cluster' ? this.readOfCluster(keys) : this.readOfServer(redis.client, keys);
  }

  private async readOfServer(client: Server, keys: string[]): Promise<Page> {
    // `mGet` of the client copies the keys one by one, which takes a sixth of its time.
    const command = ['MGET', ...keys];
    try {
      return await this.attempts.attempt('read', undefined, () => client.sendCommand<(string | null)[]>(command));
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
            // Unlike GET, it does not fail if a key has another type.
            const [stored] = await client.mGet([key]);
            return stored!;
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
