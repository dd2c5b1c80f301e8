import { setTimeout as sleep } from 'node:timers/promises';
import { createClient, createCluster } from '@redis/client';
import slotOf from '@redis/client/dist/lib/utils/calculate-slot.js';
import { reconnectUnlessCutOff } from './reconnect.js';
import { scripts } from './scripts.js';
import type { Master } from './tracking.js';
import { Late, within } from './within.js';

const maxUnanswered = 20_000;
const longestReconnectMs = 1_000;
/** What is cut off soon after it was connected is connected again so much later. */
const cutOffMs = 250;
/** Whether there is a connection is looked at so often by whoever waits for it. */
const connectedPollMs = 5;
/** Each connection is asked something so often: a single server, whether it is still in charge. */
const lookedAfterEveryMs = 500;
/** What does not answer for so long, or for as long as a call may take if that is longer, is given up. */
const leastUnansweredMs = 3_000;

/** The endpoints of an address: its own, and the others that follow as `host:port`, of a cluster. */
export const rootsOf = (url: string): string[] => {
  const [first, ...others] = url.split(',') as [string, ...string[]];
  const { protocol, username, password } = new URL(first);
  const credentials = password ? `${username}:${password}@` : '';
  return [first, ...others.map((it) => `${protocol}//${credentials}${it}`)];
};

const socketOptions = {
  connectTimeout: 1_000,
  // For a handshake that is not answered. Later, writes postpone it, and the questions of `lookAfter` find what does not answer.
  socketTimeout: 3_000,
};

const redisAt = (url: string) => {
  const roots = rootsOf(url);
  const common = {
    RESP: 3 as const,
    scripts,
    disableOfflineQueue: true,
    commandsQueueMaxLength: maxUnanswered,
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

/** One connection. */
interface Client {
  isReady: boolean;
  sendCommand<Answer>(words: string[]): Promise<Answer>;
  connect(): Promise<unknown>;
  destroy(): void;
}

/** The connections over which Redis is asked, to one server or to the masters of a cluster: they are there again by themselves. */
export class Connection {
  readonly redis: ReturnType<typeof redisAt>;
  private retry: NodeJS.Timeout | undefined;
  private timer: NodeJS.Timeout | undefined;
  private readonly unansweredMs: number;
  /** First connections to nodes of a cluster whose failure is nobody's concern. */
  private readonly connecting = new WeakSet<Promise<unknown>>();
  /** Until the first connection is there, or could not be made: calls wait for it as long as they may take. */
  beginning: Promise<void> | undefined;
  isStarted = false;
  isStopped = false;

  constructor(url: string, deadlineMs: number) {
    this.unansweredMs = Math.max(leastUnansweredMs, deadlineMs);
    this.redis = redisAt(url);
    const { kind, client } = this.redis;
    client.on('error', () => undefined);
    if (kind === 'server') client.on('terminated', () => this.connectLater(cutOffMs));
    else client.on('node-error', () => this.cutOffNodes().length > 0 && this.connectLater(cutOffMs));
  }

  /** Does not wait. */
  start(): void {
    this.isStarted = true;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.beginning = promise;
    void promise.then(() => (this.beginning = undefined));
    const { kind, client } = this.redis;
    // A cluster has other nodes to try.
    if (kind === 'server') client.once('error', () => resolve());
    this.lookAfterAll();
    this.connect(resolve);
  }

  stop(): void {
    this.isStopped = true;
    clearTimeout(this.retry);
    clearTimeout(this.timer);
    this.redis.client.destroy();
  }

  private connect(begun?: () => void): void {
    const { kind, client } = this.redis;
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
    const { kind, client } = this.redis;
    if (kind === 'server' || !client.isOpen) this.connect();
    else for (const node of this.cutOffNodes()) node.connect().catch(() => undefined);
  }

  /** Those of a cluster whose connections were given up. */
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
   * Leaves a server that is not in charge: its name may stand for another one by now, and a connection lasts as long as
   * nobody ends it. And leaves a connection that does not answer: one that is half open takes what is written for many minutes.
   */
  private async lookAfter(client: Client): Promise<void> {
    // One that is being connected is left to that: what is asked over two connections at once is answered in no order.
    if (!client.isReady) return;
    try {
      const answer = await within(this.unansweredMs, 'ROLE', () => client.sendCommand<unknown>(['ROLE']));
      // Where it says what cannot be understood, it stays. In a cluster the masters tell who is in charge.
      const isInCharge = !Array.isArray(answer) || answer[0] === 'master';
      if (this.redis.kind === 'cluster' || isInCharge || !client.isReady) return;
    } catch (error) {
      // Where it may not be asked, it stays; where it was lost, it is connected again already.
      if (!(error instanceof Late && client.isReady)) return;
    }
    client.destroy();
    client.connect().catch(() => undefined);
  }

  /** @param silent masters that are not asked who is in charge */
  lookAnew(silent: Set<string>): void {
    const { kind, client } = this.redis;
    // Whoever is told meanwhile that a slot has moved waits for the answer: not for that of one that hangs.
    if (kind === 'cluster' && client.isReady) client._slots.rediscover(undefined, silent).catch(() => undefined);
  }

  /**
   * What is asked of a node of a cluster to which there was no connection yet would wait for that, however long, and be done
   * then, when nobody waits for it any more and others may have written since.
   */
  async connected(key: string, hasEnded: () => boolean): Promise<void> {
    const { kind, client } = this.redis;
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

  /** Of a cluster, who has the key: the same object for as long as it is one of the masters. */
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
   * Whether it is known who has each slot. Where a cluster goes on without some, a node that has not heard of their master,
   * as one that has joined a moment ago, leaves them out.
   */
  isWhole(): boolean {
    const { kind, client } = this.redis;
    // Those that nobody has are holes.
    return kind === 'server' || !(client.slots as unknown[]).includes(undefined);
  }

  masters(): Master[] {
    const { kind, client } = this.redis;
    return kind === 'server'
      ? [{ id: 'server' }]
      : client.masters.map(({ host, port }) => ({ id: `${host}:${port}`, host, port }));
  }
}

/** Whoever waits for a connection has been told by then that it has failed, and may have gone on to something else. */
export const assertGoesOn = (hasEnded: () => boolean): void => {
  if (hasEnded()) throw new Error('the node of the cluster was not connected in time');
};
