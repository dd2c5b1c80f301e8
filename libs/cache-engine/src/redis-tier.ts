import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { ConsecutiveBreaker, ExponentialBackoff, circuitBreaker, handleWhen } from 'cockatiel';
import { ErrorReply, createClient, createCluster } from '@redis/client';
import { assertTimeout, within } from './within.js';
import { reconnectUnlessCutOff } from './reconnect.js';
import { noVersion, scripts, type AboutKey } from './scripts.js';
import { Tracking, type Heard, type Master } from './tracking.js';

/** Redis cannot be asked at present, refuses that, or has not answered in time. Nothing is known of what became of a write. */
export class CacheUnavailable extends Error {
  constructor(options?: ErrorOptions) {
    const isRefused = options?.cause instanceof ErrorReply;
    const what = isRefused ? 'Redis rejects commands from the cache' : 'The cache cannot reach Redis';
    super(`${what} at present. Try again shortly.`, options);
    this.name = 'CacheUnavailable';
  }
}

export interface RedisOptions {
  /** One server, `redis://host:port[/db]` or `rediss:`; or some masters of a cluster, `redis://host:port,host:port,…`. */
  url: string;
  /** How long one call may take, in milliseconds. */
  deadlineMs?: number | undefined;
  /** Nothing in this process is given out unless its Redis was heard of within so many milliseconds. */
  silenceMs?: number | undefined;
}

/** What the invalidations are about: entries and tags, not leases and counters. */
export const keyKinds = { entry: 'e', tag: 't', lease: 'l', counter: 'n' } as const;

const maxUnanswered = 20_000;
const failuresThatBreak = 5;
const longestReconnectMs = 1_000;
/** What is cut off soon after it was connected is connected again so much later. */
const cutOffMs = 250;
/** Whether there is a connection is looked at so often by whoever waits for it, and whether a slot is moved. */
const connectedPollMs = 5;
const movedPollMs = 10;
/** A single server is asked so often whether it is still in charge. */
const roleAskedEveryMs = 500;
/** That Redis refuses what it is asked is told so often at the most. */
const refusalsToldEveryMs = 60_000;
/** Keys looked at in one step of a sweep. */
const sweepPage = 500;
const firstSweepAgainMs = 1_000;
const longestSweepAgainMs = 60_000;

interface Asked {
  promise: Promise<string | null>;
  resolve: (stored: string | null) => void;
  reject: (error: unknown) => void;
}

/** The scripts that are asked about keys, many at once where they are asked in one turn. */
type KeyScript = 'lease' | 'fill' | 'renew' | 'release' | 'put' | 'putIf' | 'removeIf';

interface AskedAbout {
  about: AboutKey;
  resolve: (reply: unknown) => void;
  reject: (error: unknown) => void;
}

/** Most keys, and most characters of them, that Redis is asked about at once: it answers nobody else meanwhile. */
const largestRead = 512;
const largestScript = 128;
const largestScriptText = 1_048_576;

/** No tag that begins anew comes to a version it had before. */
export const randomTagBase = (): number => randomInt(2 ** 47) * 2 ** 4;

/** The endpoints of an address: its own, and the others that follow as `host:port`, of a cluster. */
const rootsOf = (url: string): string[] => {
  const [first, ...others] = url.split(',') as [string, ...string[]];
  const { protocol, username, password } = new URL(first);
  const credentials = password ? `${username}:${password}@` : '';
  return [first, ...others.map((it) => `${protocol}//${credentials}${it}`)];
};

const socketOptions = {
  connectTimeout: 1_000,
  // A connection on which nothing moves although it is asked is given up.
  socketTimeout: 3_000,
};

const connect = (url: string) => {
  const roots = rootsOf(url);
  const common = {
    RESP: 3 as const,
    scripts,
    disableOfflineQueue: true,
    commandsQueueMaxLength: maxUnanswered,
    pingInterval: 1_000,
    // Every call has our deadline; theirs would cost a signal, a timer and a weak reference for each command.
    commandOptions: { timeout: undefined as never },
  };
  if (roots.length === 1) {
    const socket = { ...socketOptions, reconnectStrategy: reconnectUnlessCutOff() };
    return { kind: 'server' as const, client: createClient({ url: roots[0]!, ...common, socket }) };
  }
  const { username, password, protocol } = new URL(roots[0]!);
  const { RESP, ...rest } = common;
  return {
    kind: 'cluster' as const,
    client: createCluster({
      rootNodes: roots.map((it) => ({ url: it })),
      RESP,
      scripts,
      commandOptions: rest.commandOptions,
      minimizeConnections: true,
      defaults: {
        ...rest,
        ...(password && { username: decodeURIComponent(username), password: decodeURIComponent(password) }),
        // It is asked for with each client that is made, so that each has a strategy of its own.
        get socket() {
          return {
            ...socketOptions,
            reconnectStrategy: reconnectUnlessCutOff(),
            ...(protocol === 'rediss:' && { tls: true as const }),
          };
        },
      },
    }),
  };
};

/**
 * The tier that all processes share. Every call has a deadline, and after some failures the next ones fail at once until
 * one of them comes through again. What is read in one turn of the event loop is asked for at once.
 */
export class RedisTier {
  private readonly connection: ReturnType<typeof connect>;
  private readonly tracking: Tracking;
  private readonly deadlineMs: number;
  private readonly breaker = circuitBreaker(
    handleWhen((error) => !(error instanceof ErrorReply || isNotKnownYet(error))),
    {
      halfOpenAfter: new ExponentialBackoff({ initialDelay: 100, maxDelay: 1_000 }),
      breaker: new ConsecutiveBreaker(failuresThatBreak),
    },
  );
  /** What is to be asked for at the end of this turn of the event loop. */
  private asked = new Map<string, Asked>();
  private readonly askedAbout: Record<KeyScript, AskedAbout[]> = {
    lease: [],
    fill: [],
    renew: [],
    release: [],
    put: [],
    putIf: [],
    removeIf: [],
  };
  /** Namespaces that are being swept, by their tags, and whether that is to be done once more. */
  private readonly sweeping = new Map<string, boolean>();
  private retry: NodeJS.Timeout | undefined;
  private roleTimer: NodeJS.Timeout | undefined;
  /** First connections to nodes of a cluster whose failure is nobody's concern. */
  private readonly connecting = new WeakSet<Promise<unknown>>();
  /** Until the first connection is there, or could not be made: calls wait for it as long as they may take. */
  private beginning: Promise<void> | undefined;
  private isStarted = false;
  private hasSaidNotStarted = false;
  private isStopped = false;
  private refusalToldAt = Number.NEGATIVE_INFINITY;

  /** @param complain hears of what goes wrong beside what fails: once when Redis goes away, once when it is back */
  constructor(
    { url, deadlineMs = 200, silenceMs = 1_000 }: RedisOptions,
    prefixes: readonly string[],
    private readonly heard: Heard & { ended: (what: string, ms: number, error: unknown) => void },
    private readonly complain: (message: string) => void,
  ) {
    assertTimeout('redis.deadlineMs', deadlineMs, 1);
    assertTimeout('redis.silenceMs', silenceMs, 1);
    this.deadlineMs = deadlineMs;
    this.connection = connect(url);
    const { kind, client } = this.connection;
    client.on('error', () => undefined);
    if (kind === 'server') client.on('terminated', () => this.connectLater(cutOffMs));
    else client.on('node-error', () => this.cutOffNodes().length > 0 && this.connectLater(cutOffMs));
    this.tracking = new Tracking(
      {
        url: rootsOf(url)[0]!,
        ...{ prefixes, silenceMs },
        masters: () => this.masters(),
        isWhole: () => this.isWhole(),
        lookAnew: () => this.lookAnew(),
      },
      heard,
      complain,
    );
  }

  /** Until when what lies in this process may be given out: nothing written elsewhere is unknown for too long. */
  get heardUntil(): number {
    return this.tracking.heardUntil;
  }

  /** How far the clock of Redis, by which all processes mean the same, is ahead of `performance.now()`. */
  get clockAheadMs(): number {
    return this.tracking.clockAheadMs;
  }

  /** Does not wait: the cache starts without Redis and uses it once it is there. */
  start(): void {
    this.isStarted = true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.beginning = promise;
    void promise.then(() => (this.beginning = undefined));
    const { kind, client } = this.connection;
    // A cluster has other nodes to try.
    if (kind === 'server') client.once('error', () => resolve());
    clearInterval(this.roleTimer);
    this.roleTimer = setInterval(() => void this.leaveUnlessInCharge(), roleAskedEveryMs);
    this.connect(resolve);
    this.tracking.start();
  }

  private connect(begun?: () => void): void {
    const { kind, client } = this.connection;
    const connecting = client.connect() as Promise<unknown>;
    connecting
      .catch(() => {
        // A cluster of which no node answers gives up; a single server is tried again by the client itself.
        if (kind === 'cluster') this.connectLater(longestReconnectMs);
      })
      .finally(begun);
  }

  private connectLater(ms: number): void {
    if (!this.isStopped) this.retry ??= setTimeout(() => this.connectAgain(), ms);
  }

  private connectAgain(): void {
    this.retry = undefined;
    const { kind, client } = this.connection;
    if (kind === 'server' || !client.isOpen) this.connect();
    else for (const node of this.cutOffNodes()) node.connect().catch(() => undefined);
  }

  /** Those of a cluster whose connections were given up. */
  private cutOffNodes() {
    const { kind, client } = this.connection;
    return kind === 'server' ? [] : client.masters.flatMap((it) => (it.client?.isOpen === false ? [it.client] : []));
  }

  /** Its name may stand for another one by now, and a connection lasts as long as nobody ends it. */
  private async leaveUnlessInCharge(): Promise<void> {
    const { kind, client } = this.connection;
    // One that is being connected is left to that: what is asked over two connections at once is answered in no order.
    if (kind === 'cluster' || !client.isReady) return;
    const answer = await client.sendCommand<unknown>(['ROLE']).catch(() => undefined);
    // Where it may not be asked, or says what cannot be understood, it stays.
    if (!Array.isArray(answer) || answer[0] === 'master' || !client.isReady) return;
    client.destroy();
    this.connect();
  }

  private lookAnew(): void {
    const { kind, client } = this.connection;
    // Whoever is told meanwhile that a slot has moved waits for the answer: not for that of one that hangs.
    if (kind === 'cluster' && client.isReady)
      client._slots.rediscover(undefined, this.tracking.silent()).catch(() => undefined);
  }

  stop(): void {
    this.isStopped = true;
    clearTimeout(this.retry);
    clearInterval(this.roleTimer);
    this.tracking.stop();
    this.connection.client.destroy();
  }

  /** What is asked for in one turn goes in one question. @throws CacheUnavailable */
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
      if (this.connection.kind === 'server' && first instanceof CacheUnavailable) {
        while (found.length < keys.length) found.push(first);
        break;
      }
    }
    const [first] = found;
    if (first instanceof CacheUnavailable && found.every((it) => it instanceof CacheUnavailable)) throw first;
    return found;
  }

  lease(entry: string, lease: string, token: string, ms: number, seen: string): Promise<Leased> {
    return this.ask('lease', [entry, lease, token, String(ms), seen]);
  }

  fill(entry: string, lease: string, token: string, stored: string, ms: number): Promise<boolean> {
    return this.ask('fill', [entry, lease, token, stored, String(ms)]);
  }

  async renew(entry: string, lease: string, token: string, ms: number): Promise<void> {
    await this.ask('renew', [entry, lease, token, String(ms)]);
  }

  async release(entry: string, lease: string, token: string): Promise<void> {
    await this.ask('release', [entry, lease, token]);
  }

  /** @param ifVersion stores only where that version lies there, `''` for nothing */
  put(entry: string, lease: string, stored: string, ms: number, ifVersion?: string): Promise<boolean> {
    return ifVersion === undefined
      ? this.ask('put', [entry, lease, stored, String(ms)])
      : this.ask('putIf', [entry, lease, stored, String(ms), ifVersion]);
  }

  /** @param version removes only where that lies there, `''` for nothing */
  removeIf(entry: string, lease: string, version: string): Promise<boolean> {
    return this.ask('removeIf', [entry, lease, version]);
  }

  /** @param pairs entry and lease of each key: they lie in one slot */
  async remove(pairs: readonly (readonly [entry: string, lease: string])[]): Promise<void> {
    const { connection } = this;
    // One after the other: Redis answers nobody else meanwhile.
    for (const page of pagesOf(pairs))
      await this.attempt('remove', async (hasEnded) => {
        if (connection.kind === 'server') await connection.client.unlink(page.flat());
        else
          await Promise.all(
            page.map(async (pair) => {
              await this.connected(pair[0], hasEnded);
              return unlessMoving(connection.client.unlink([...pair]), () => this.removeApart(pair, hasEnded));
            }),
          );
      });
  }

  private async removeApart([entry, lease]: readonly [string, string], hasEnded: () => boolean): Promise<void> {
    const remove = (): Promise<unknown> => this.connection.client.unlink(entry);
    await this.changeApart(lease, remove, remove, hasEnded);
  }

  private async putApart([entry, lease, stored, ms]: AboutKey, hasEnded: () => boolean): Promise<unknown[]> {
    const { client } = this.connection;
    const lasts = ms === '0' ? {} : { expiration: { type: 'PX' as const, value: Number(ms) } };
    // Others may have gone on from this value by now: it is not put there again, and nothing is there rather than what was.
    const removeOther = async (): Promise<unknown> => (await client.get(entry)) !== stored && client.unlink(entry);
    const write = async (): Promise<unknown> => {
      try {
        return await client.set(entry, stored!, lasts);
      } catch (error) {
        // By a Redis that is full: what lay there is not what is to be read there.
        if (error instanceof ErrorReply && !hasEnded()) await client.unlink(entry);
        throw error;
      }
    };
    await this.changeApart(lease, write, removeOther, hasEnded);
    return [true];
  }

  /** Of a key whose slot is being moved: its entry and its lease may be on two masters, and are changed one after the other. */
  private async changeApart(
    lease: string,
    change: () => Promise<unknown>,
    undoFill: () => Promise<unknown>,
    hasEnded: () => boolean,
  ): Promise<void> {
    const end = (): Promise<unknown> => this.connection.client.unlink(lease);
    // Whoever loads is too late before the entry changes; and whoever began to before it did may have filled it until the
    // lease is taken away from him as well.
    for (const step of [end, change, end, undoFill]) {
      // Whoever was told that it has failed may have gone on to another value.
      if (hasEnded()) return;
      await step();
    }
  }

  count(key: string, step: number, ms: number): Promise<number> {
    return this.attempt('count', async (hasEnded) => {
      await this.connected(key, hasEnded);
      return this.connection.client.count(key, String(step), String(ms));
    });
  }

  /** @param step 0 to read it */
  tagVersion(key: string, step: number): Promise<string> {
    const base = String(randomTagBase());
    return this.attempt('tag', async (hasEnded) => {
      await this.connected(key, hasEnded);
      return this.connection.client.tagVersion(key, base, String(step));
    });
  }

  /** Tells that they are in use. Nobody minds where it fails: it is told again soon. */
  async touch(keys: readonly string[]): Promise<void> {
    const { kind, client } = this.connection;
    for (const page of pagesOf(keys)) {
      // In a cluster the keys lie in many slots.
      const each = kind === 'server' ? [page] : page.map((key) => [key]);
      await Promise.allSettled(each.map((some) => client.touch(some)));
    }
  }

  /**
   * Throws away what nobody reads any more of a namespace, on every master, a page at a time: entries and counters of an
   * earlier version of it. It goes on by itself, and begins again some time after it has failed.
   */
  sweep(space: Swept): void {
    const { tag } = space;
    if (this.sweeping.has(tag)) {
      this.sweeping.set(tag, true);
      return;
    }
    this.sweeping.set(tag, true);
    void this.sweepUntilDone(space);
  }

  private async sweepUntilDone(space: Swept): Promise<void> {
    const { tag, pattern } = space;
    let waitMs = firstSweepAgainMs;
    while (this.sweeping.get(tag) && !this.isStopped) {
      this.sweeping.set(tag, false);
      try {
        await this.sweepAll(space);
      } catch (error) {
        if (this.isStopped) break;
        this.sweeping.set(tag, true);
        const { cause = error } = error as Error;
        this.complain(
          `Cleared entries of ${pattern} could not be deleted from Redis yet, trying again in ${waitMs} ms: ${String(cause)}`,
        );
        await sleep(waitMs, undefined, { ref: false });
        waitMs = Math.min(2 * waitMs, longestSweepAgainMs);
      }
    }
    this.sweeping.delete(tag);
  }

  private async sweepAll({ tag, pattern, counters }: Swept): Promise<void> {
    const isCounter = (key: string): boolean => key.startsWith(counters);
    let current: string | undefined;
    let lastOld = noVersion;
    for (const client of await this.attempt('sweep', () => this.masterClients())) {
      let cursor = '0';
      do {
        const page = await this.attempt('sweep', () => client.scan(cursor, { MATCH: pattern, COUNT: sweepPage }));
        const entries = page.keys.filter((key) => !isCounter(key)).map((key) => [key, lastOld] as const);
        // The name of a counter begins with its version.
        const counted = page.keys
          .filter(isCounter)
          .map((key) => [key, key.slice(counters.length, key.indexOf(':', counters.length))] as const);
        const doubtful = [...(await this.sweepKeys(entries)), ...counted].filter(([, version]) => version !== current);
        if (doubtful.length > 0) {
          // Asked for after they were seen: what they were written under was current before, and never comes back.
          current = await this.tagVersion(tag, 0);
          const old = doubtful.filter(([, version]) => version !== current);
          // A number is no entry.
          await this.sweepKeys(old.map(([key, version]) => [key, isCounter(key) ? noVersion : version] as const));
          lastOld = old.findLast(([key]) => !isCounter(key))?.[1] ?? lastOld;
        }
        ({ cursor } = page);
      } while (cursor !== '0' && !this.isStopped);
    }
  }

  /** @param entries with the versions under which they are old. @returns those that are of another one, with that */
  private async sweepKeys(entries: readonly OfVersion[]): Promise<OfVersion[]> {
    const { kind, client } = this.connection;
    const found: OfVersion[] = [];
    // One page after the other, so that neither Redis nor this process is kept from others for long.
    for (const page of pagesOf(entries, largestScript)) {
      const [keys, versions] = [page.map(([key]) => key), page.map(([, version]) => version)];
      const left = await this.attempt('sweep', async () => {
        if (kind === 'server') return client.sweep(keys, versions);
        // The keys of one node lie in many slots.
        return (await Promise.all(keys.map((key, at) => client.sweep([key], [versions[at]!])))).flat();
      });
      for (const [at, key] of keys.entries()) if (left[at] !== null) found.push([key, left[at]!]);
    }
    return found;
  }

  /** @throws CacheUnavailable */
  async ping(): Promise<void> {
    const clients = await this.attempt('ping', () => this.masterClients());
    if (!this.isWhole())
      throw new CacheUnavailable({ cause: new Error('some slots of the cluster have no known master') });
    await this.attempt('ping', () => Promise.all(clients.map((it) => it.ping())));
  }

  /**
   * What is asked of a node of a cluster to which there was no connection yet would wait for that, however long, and be done
   * then, when nobody waits for it any more and others may have written since.
   */
  private async connected(key: string, hasEnded: () => boolean): Promise<void> {
    const { kind, client } = this.connection;
    if (kind === 'server') return;
    // It may be another node by the time that the first one is connected.
    while (!client.masters.every((it) => it.client && !it.connectPromise)) {
      const connecting = client.getNodeClientForKey(key);
      const node = client.masters.find((it) => it.connectPromise === connecting);
      if (!this.connecting.has(connecting)) {
        this.connecting.add(connecting);
        connecting.catch(() => undefined);
      }
      if (!node) return;
      // Whoever waited for the connection itself would be held on to by it.
      while (node.connectPromise === connecting && !hasEnded()) await sleep(connectedPollMs);
      assertGoesOn(hasEnded);
      if (!node.client && client.masters.includes(node)) throw new Error('cannot connect to the node of the cluster');
    }
  }

  private async masterClients() {
    const { kind, client } = this.connection;
    return kind === 'server' ? [client] : Promise.all(client.masters.map((it) => client.nodeClient(it)));
  }

  /**
   * Whether it is known who has each slot. Where a cluster goes on without some, a node that has not heard of their master,
   * as one that has joined a moment ago, leaves them out.
   */
  private isWhole(): boolean {
    const { kind, client } = this.connection;
    // Those that nobody has are holes.
    return kind === 'server' || !(client.slots as unknown[]).includes(undefined);
  }

  private masters(): Master[] {
    const { kind, client } = this.connection;
    return kind === 'server'
      ? [{ id: 'server' }]
      : client.masters.map(({ host, port }) => ({ id: `${host}:${port}`, host, port }));
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

  /** What is asked in one turn goes in one question; in a cluster the keys lie in many slots, and each goes by itself. */
  private ask<Reply>(script: KeyScript, about: AboutKey): Promise<Reply> {
    const { promise, resolve, reject } = Promise.withResolvers<Reply>();
    const asked = { about, resolve: resolve as (reply: unknown) => void, reject };
    if (this.connection.kind === 'cluster') void this.askPage(script, [asked]);
    else if (this.askedAbout[script].push(asked) === 1) setImmediate(() => this.askAll(script));
    return promise;
  }

  private askAll(script: KeyScript): void {
    let page: AskedAbout[] = [];
    let text = 0;
    for (const asked of this.askedAbout[script].splice(0)) {
      const more = asked.about.reduce((sum, it) => sum + it.length, 0);
      if (page.length === largestScript || (page.length > 0 && text + more > largestScriptText)) {
        void this.askPage(script, page);
        page = [];
        text = 0;
      }
      page.push(asked);
      text += more;
    }
    void this.askPage(script, page);
  }

  private async askPage(script: KeyScript, page: readonly AskedAbout[]): Promise<void> {
    const { kind, client } = this.connection;
    const asking = (): Promise<unknown[]> => client[script](page.map((it) => it.about));
    const ofCluster = async (hasEnded: () => boolean): Promise<unknown[]> => {
      const { about } = page[0]!;
      await this.connected(about[0], hasEnded);
      return script === 'put'
        ? unlessMoving(asking(), () => this.putApart(about, hasEnded))
        : onceMoved(asking, this.deadlineMs / 2, hasEnded);
    };
    const ask = kind === 'server' ? asking : ofCluster;
    try {
      const replies = await this.attempt(script, ask, (all) => all.find((it) => it instanceof Error));
      page.forEach(({ resolve, reject }, at) => {
        const reply = replies[at];
        if (reply instanceof Error) reject(new CacheUnavailable({ cause: reply }));
        else resolve(reply);
      });
    } catch (error) {
      for (const { reject } of page) reject(error);
    }
  }

  /** In a cluster a key of a master that is away fails by itself. */
  private async readPage(keys: string[]): Promise<Page> {
    const { connection } = this;
    try {
      return await this.attempt('read', async (): Promise<Page> => {
        if (connection.kind === 'server') return connection.client.mGet(keys);
        // The keys lie in many slots; the client sends what goes to one node in one go.
        const each = await Promise.allSettled(
          keys.map((key) =>
            within(this.deadlineMs / 2, 'read', async (hasEnded) => {
              await this.connected(key, hasEnded);
              return connection.client.get(key);
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

  /** It is there and yet nothing is kept, which whoever goes on without it would not notice. */
  private refused({ message }: ErrorReply): void {
    const now = performance.now();
    if (now - this.refusalToldAt < refusalsToldEveryMs || message.startsWith('OVERFLOW')) return;
    this.refusalToldAt = now;
    const isOfCluster = this.connection.kind === 'server' && /^(?:MOVED|CROSSSLOT)/.test(message);
    const advice = isOfCluster
      ? '. The server is part of a cluster: list two of its masters in redis.url, or its address twice'
      : '';
    this.complain(`Redis rejected a command: ${message}${advice}`);
  }

  /** Whoever goes on without it, as `getOrSet` does, would not notice. */
  private sayIfNotStarted(): void {
    if (this.isStarted || this.hasSaidNotStarted) return;
    this.hasSaidNotStarted = true;
    this.complain('Redis is not used: call start() of the CacheEngine');
  }

  /** @param failureIn what is wrong in what was answered, for those who count */
  private async attempt<T>(
    what: string,
    work: (hasEnded: () => boolean) => Promise<T>,
    failureIn?: (answer: T) => unknown,
  ): Promise<T> {
    const startedAt = performance.now();
    let failure: unknown;
    this.sayIfNotStarted();
    try {
      const { beginning } = this;
      const onceBegun = async (hasEnded: () => boolean): Promise<T> => {
        await beginning;
        assertGoesOn(hasEnded);
        return work(hasEnded);
      };
      const ask = beginning ? onceBegun : work;
      const answer = await this.breaker.execute(() => within(this.deadlineMs, what, ask));
      failure = failureIn?.(answer);
      return answer;
    } catch (error) {
      failure = error;
      if (error instanceof ErrorReply && error.message.startsWith('OVERFLOW'))
        throw new RangeError('the counter would exceed the range of safe integers', { cause: error });
      throw new CacheUnavailable({ cause: error });
    } finally {
      if (failure instanceof ErrorReply) this.refused(failure);
      // Whoever looks whether Redis is there, as each reading of the metrics does, is no operation of the cache.
      if (what !== 'ping') this.heard.ended(what, performance.now() - startedAt, failure);
    }
  }
}

/** Of a namespace: the tag that counts its versions, a pattern of the keys of its entries and counters, and what the latter begin with. */
interface Swept {
  tag: string;
  pattern: string;
  counters: string;
}

/** Whoever waits for a connection has been told by then that it has failed, and may have gone on to something else. */
const assertGoesOn = (hasEnded: () => boolean): void => {
  if (hasEnded()) throw new Error('the node of the cluster was not connected in time');
};

/** What has two keys is refused while their slot is being moved from one master to another. */
const isMoving = (error: unknown): boolean => error instanceof ErrorReply && error.message.startsWith('TRYAGAIN');

/** What cannot be done apart is asked again, as a slot is mostly moved soon. */
const onceMoved = async <T>(ask: () => Promise<T>, patienceMs: number, hasEnded: () => boolean): Promise<T> => {
  for (const giveUpAt = performance.now() + patienceMs; ;)
    try {
      return await ask();
    } catch (error) {
      if (!isMoving(error) || performance.now() > giveUpAt) throw error;
      await sleep(movedPollMs);
      if (hasEnded()) throw error;
    }
};

const unlessMoving = async <T, Apart>(asking: Promise<T>, apart: () => Promise<Apart>): Promise<T | Apart> => {
  try {
    return await asking;
  } catch (error) {
    if (isMoving(error)) return apart();
    throw error;
  }
};

/** That a slot is being moved to a master that has none yet, of which the client is not told before: of that slot alone. */
const isNotKnownYet = (error: unknown): boolean =>
  error instanceof Error && error.message.startsWith('Cannot find node ');

type OfVersion = readonly [key: string, version: string];
type Page = (string | null | CacheUnavailable)[];

/** Not so much at a time that Redis keeps others waiting. */
export const pagesOf = <Item>(items: readonly Item[], most = largestRead): Item[][] => {
  const pages: Item[][] = [];
  for (let at = 0; at < items.length; at += most) pages.push(items.slice(at, at + most));
  return pages;
};

interface Leased {
  isTaken: boolean;
  /** What was filled since. */
  stored: string | null;
}
