import { setTimeout as sleep } from 'node:timers/promises';
import slotOf from '@redis/client/dist/lib/utils/calculate-slot.js';
import { reconnectUnlessCutOff } from './reconnect.js';
import { redisClient } from './redis-client.js';
import { scripts } from './scripts.js';
import type { Master } from './tracking.js';
import { Late, within } from './within.js';

const maxUnanswered = 20_000;
const longestReconnectMs = 1_000;
/** The delay before a connection that was lost soon after it was made is made again. */
const cutOffMs = 250;
/** How often calls that wait for a connection check whether it is there. */
const connectedPollMs = 5;
/** How often each connection is probed; a single server is also asked whether it is still the master. */
const lookedAfterEveryMs = 500;
/** A connection that does not answer for this long, or for the deadline of a call if that is longer, is given up. */
const leastUnansweredMs = 3_000;

/** The endpoints in an address: the first, and for a cluster the others, which follow as `host:port`. */
export const rootsOf = (url: string): string[] => {
  const [first, ...others] = url.split(',') as [string, ...string[]];
  const { protocol, username, password } = new URL(first);
  const credentials = password ? `${username}:${password}@` : '';
  return [first, ...others.map((it) => `${protocol}//${credentials}${it}`)];
};

const socketOptions = {
  connectTimeout: 1_000,
  // Limits a new connection that stays silent. Later, each command that is sent restarts this timeout, whether it is
  // answered or not.
  socketTimeout: 3_000,
};

const redisAt = (url: string) => {
  const { createClient, createCluster } = redisClient();
  const roots = rootsOf(url);
  const common = {
    RESP: 3 as const,
    scripts,
    disableOfflineQueue: true,
    commandsQueueMaxLength: maxUnanswered,
    // Every call has our own deadline; the client's would cost an AbortSignal, a timer and a weak reference per command.
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
        // A getter, because the client reads it for each connection it creates, so that each has its own strategy.
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

/** Receives an answer of a single server to TIME, and when it was asked for by `performance.now()`. */
type TimeTold = (time: string[], askedAt: number) => void;

/** One connection of the Redis client. */
interface Client {
  isReady: boolean;
  sendCommand<Answer>(words: string[]): Promise<Answer>;
  connect(): Promise<unknown>;
  destroy(): void;
}

/** The connections to one Redis server or to the masters of a cluster. They reconnect by themselves. */
export class Connection {
  readonly redis: ReturnType<typeof redisAt>;
  private retry: NodeJS.Timeout | undefined;
  private timer: NodeJS.Timeout | undefined;
  private readonly unansweredMs: number;
  /** Pending connections to cluster nodes whose rejection is already handled. */
  private readonly connecting = new WeakSet<Promise<unknown>>();
  /** Pending until the first connection was made or has failed. Calls wait for it within their deadline. */
  beginning: Promise<void> | undefined;
  isStarted = false;
  isStopped = false;

  /** @param timeTold is called after each connection to a single server, for the first one before the first call is sent */
  constructor(
    url: string,
    deadlineMs: number,
    private readonly timeTold: TimeTold,
  ) {
    this.unansweredMs = Math.max(leastUnansweredMs, deadlineMs);
    this.redis = redisAt(url);
    const { kind, client } = this.redis;
    client.on('error', () => undefined);
    if (kind === 'server') client.on('terminated', () => this.connectLater(cutOffMs));
    else client.on('node-error', () => this.cutOffNodes().length > 0 && this.connectLater(cutOffMs));
  }

  /** Starts connecting in the background. */
  start(): void {
    this.isStarted = true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.beginning = promise;
    void promise.then(() => (this.beginning = undefined));
    const { kind, client } = this.redis;
    // A cluster has other nodes to try.
    if (kind === 'server') {
      client.once('error', () => resolve());
      client.on('ready', () => void this.askTime(client).finally(resolve));
    }
    this.lookAfterAll();
    this.connect(resolve);
  }

  stop(): void {
    this.isStopped = true;
    clearTimeout(this.retry);
    clearTimeout(this.timer);
    this.redis.client.destroy();
  }

  /** The times of the first calls, too, are to be those of the clock of Redis; another master may have another clock. */
  private async askTime(client: Client): Promise<void> {
    const askedAt = performance.now();
    try {
      this.timeTold(await client.sendCommand<string[]>(['TIME']), askedAt);
    } catch {
      // If TIME is refused, the clock of this process is used; if the connection was lost, the next one asks again.
    }
  }

  private connect(begun?: () => void): void {
    const { kind, client } = this.redis;
    const connecting = client.connect() as Promise<unknown>;
    // The client of a single server retries by itself, and reports each connection as `ready`.
    if (kind === 'server') connecting.catch(() => begun?.());
    // A cluster client gives up if no node answers.
    else connecting.catch(() => this.connectLater(longestReconnectMs)).finally(begun);
  }

  private connectLater(ms: number): void {
    if (!this.isStopped) this.retry ??= setTimeout(() => this.connectAgain(), ms);
  }

  private connectAgain(): void {
    this.retry = undefined;
    const { kind, client } = this.redis;
    if (kind === 'server' || !client.isOpen) this.connect();
    else for (const node of this.cutOffNodes()) node.connect().catch(() => undefined);
  }

  /** The nodes of the cluster whose connections were given up. */
  private cutOffNodes() {
    const { kind, client } = this.redis;
    return kind === 'server' ? [] : client.masters.flatMap((it) => (it.client?.isOpen === false ? [it.client] : []));
  }

  private lookAfterAll(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.lookAfterAll(), lookedAfterEveryMs);
    const { kind, client } = this.redis;
    if (kind === 'server') void this.lookAfter(client);
    else for (const it of client.masters) if (it.client) void this.lookAfter(it.client);
  }

  /**
   * Leaves a server that is not the master: its name may resolve to another server by now, but a connection lasts until
   * someone closes it. Also leaves a connection that does not answer: a half-open one accepts writes for many minutes.
   */
  private async lookAfter(client: Client): Promise<void> {
    // A client that is connecting is left alone: commands sent over two connections have no order.
    if (!client.isReady) return;
    try {
      const answer = await within(this.unansweredMs, 'ROLE', () => client.sendCommand<unknown>(['ROLE']));
      // An answer that is not understood keeps the connection. In a cluster, the masters themselves report which of them is
      // in charge.
      const isInCharge = !Array.isArray(answer) || answer[0] === 'master';
      if (this.redis.kind === 'cluster' || isInCharge || !client.isReady) return;
    } catch (error) {
      // If ROLE is not permitted, the connection stays; if the connection was lost, the client already reconnects.
      if (!(error instanceof Late && client.isReady)) return;
    }
    client.destroy();
    client.connect().catch(() => undefined);
  }

  /** @param silent masters that do not answer, which are not asked for the cluster's topology */
  lookAnew(silent: Set<string>): void {
    const { kind, client } = this.redis;
    // Commands that are redirected while this runs wait for its result, so it must not wait for a master that hangs.
    if (kind === 'cluster' && client.isReady) client._slots.rediscover(undefined, silent).catch(() => undefined);
  }

  /**
   * Waits for the connection to a key's cluster node, but no longer than the call. The client would queue the command until
   * the node is connected, however long that takes, and then send it although the caller has given up and others may have
   * written since.
   */
  async connected(key: string, hasEnded: () => boolean): Promise<void> {
    const { kind, client } = this.redis;
    if (kind === 'server') return;
    // When the first node is connected, another one may own the key.
    while (!client.masters.every((it) => it.client && !it.connectPromise)) {
      const connecting = client.getNodeClientForKey(key);
      const node = client.masters.find((it) => it.connectPromise === connecting);
      if (!this.connecting.has(connecting)) {
        this.connecting.add(connecting);
        connecting.catch(() => undefined);
      }
      if (!node) return;
      // Polls, because the connection's promise would keep every waiting call in memory until it settles.
      while (node.connectPromise === connecting && !hasEnded()) await sleep(connectedPollMs);
      assertGoesOn(hasEnded);
      if (!node.client && client.masters.includes(node)) throw new Error('cannot connect to the node of the cluster');
    }
  }

  /** The master of a key in a cluster: the same object for as long as it is one of the masters. */
  masterOf(key: string): object | undefined {
    const { kind, client } = this.redis;
    if (kind === 'server') return undefined;
    return client.slots[slotOf.default(key)]?.master;
  }

  async masterClients() {
    const { kind, client } = this.redis;
    return kind === 'server' ? [client] : Promise.all(client.masters.map((it) => client.nodeClient(it)));
  }

  /**
   * Whether the master of every slot is known. If a cluster works without some slots, a node that does not know their
   * master yet, such as one that has just joined, leaves them out.
   */
  isWhole(): boolean {
    const { kind, client } = this.redis;
    // Slots without a master are holes in the array.
    return kind === 'server' || !(client.slots as unknown[]).includes(undefined);
  }

  masters(): Master[] {
    const { kind, client } = this.redis;
    return kind === 'server'
      ? [{ id: 'server' }]
      : client.masters.map(({ host, port }) => ({ id: `${host}:${port}`, host, port }));
  }
}

/** Stops work whose caller has already been told that it failed and may have moved on. */
export const assertGoesOn = (hasEnded: () => boolean): void => {
  if (hasEnded()) throw new Error('the node of the cluster was not connected in time');
};
