import { Logger } from '@nestjs/common';
import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { drainMs } from './answering-server.js';
import type { Outcome } from './answers.js';
import { frameOf } from './frames.js';
import { InFlight } from './in-flight.js';
import {
  aliveMs,
  askPatiently,
  framesChannel,
  group,
  largestAtOnce,
  largestPublished,
  leaveReplica,
  lengthOf,
  lifeSignMs,
  openPatiently,
  queueKeys,
  redisConnection,
  serverIdOf,
  shut,
  type PublishedReply,
  type QueuedRequest,
  type QueueKeys,
  type RedisConnection,
} from './redis-queue.js';
import { SelfEjection } from './self-ejection.js';
import { isTooMuch, type WireError } from './wire.js';

/** Small, so that several instances share a burst. */
const readAtOnce = 32;
const blockMs = 2_000;
const forgetConsumerMs = 600_000;
const retryMs = 200;
const replyKeptMs = 30_000;
/** After a refusal, an instance leaves new requests to others for this long; doubled with each further refusal, up to … */
const firstRestMs = 50;
/** … this. A request that has queued for this long is refused before its deadline, because all instances are overloaded. */
const patienceMs = 250;
/** Interval at which requests taken over from a dead instance look for room. */
const roomLookMs = 10;

export interface Work {
  /** Carries out one request; never rejects. */
  carryOut(request: QueuedRequest, meta: Record<string, unknown>): Promise<Outcome>;
  /** Whether the operation may be carried out again after an instance died while carrying it out. */
  mayRepeat(pattern: string): boolean;
  /** Whether the limiter would refuse one more request of this operation, which may be repeated. */
  isFull(pattern: string): boolean;
  /** Whether the application is ready. */
  canServe(): Promise<boolean>;
}

interface Entry {
  id: string;
  request: QueuedRequest;
}

/** An entry that was read and is not acknowledged yet. */
interface Pending {
  id: string;
  deliveriesCounter: number;
}

const isFirstDelivery = ({ deliveriesCounter }: Pending): boolean => deliveriesCounter === 1;

type RawEntry = { id: string; message: Record<string, string> } | null;

const lostOnTheWay: WireError = {
  code: 'unavailable',
  detail: 'The instance or the server that had the request is gone; it may have been carried out or not',
  extensions: {},
};

/** A reply as it is published, with its channel. */
interface Reply {
  channel: string;
  text: string;
  /** A large response, and the key that the client fetches it from. */
  large: { at: string; response: string } | undefined;
}

interface Settled {
  id: string;
  reply: Reply | undefined;
}

/** Requests that are settled in one transaction. */
interface Settlement {
  all: Settled[];
  length: number;
  done: Promise<void>;
}

/** A frame for clients that understand it, JSON for older versions. */
function replyTo({ channel, id }: QueuedRequest, { response, err }: Outcome): Reply {
  const isLarge = typeof response === 'string' && response.length > largestPublished;
  const large = isLarge ? { at: `cleave:reply:${randomUUID()}`, response } : undefined;
  const whole: PublishedReply = { id, response, err };
  const reply: PublishedReply = large ? { id, err, responseAt: large.at } : whole;
  return { channel, text: channel.startsWith(framesChannel) ? frameOf(reply) : JSON.stringify(reply), large };
}

/** Joins frames to the same channel into messages of limited size; replies in JSON stay single. */
function publications(replies: readonly Reply[]): { channel: string; text: string }[] {
  const published: { channel: string; text: string }[] = [];
  const open = new Map<string, { channel: string; text: string }>();
  for (const { channel, text } of replies) {
    const last = open.get(channel);
    if (last && last.text.length + text.length <= largestAtOnce) {
      last.text += text;
      continue;
    }
    const next = { channel, text };
    if (channel.startsWith(framesChannel)) open.set(channel, next);
    published.push(next);
  }
  return published;
}

/** Each id is sent twice, with XACK and XDEL. */
const lengthToSettle = ({ id, reply }: Settled): number =>
  lengthOf(id, id) +
  (reply ? lengthOf(reply.channel, reply.text) : 0) +
  (reply?.large ? lengthOf(reply.large.at, reply.large.response) : 0);

const writtenAt = (entryId: string): number => Number(entryId.slice(0, entryId.indexOf('-')));

/**
 * Reads the queue of one module as one consumer of its group. It takes all requests: the limiter admits some and refuses the
 * others at once, which in the queue would only fail at their deadline. If there are other instances, one that had to refuse
 * leaves new requests to them for a moment, and one that fails until it may work again.
 *
 * A request is acknowledged and deleted once its reply has been published. When an instance dies, another one takes over its
 * requests as soon as its sign of life has expired: it carries out those of idempotent operations whose deadline has not
 * passed, and refuses the others; a few at a time, and only when the limiter has room. An instance that is merely slow, or
 * draining, keeps its requests. After a failover or a restart of Redis, requests from before are treated like those of a dead
 * instance.
 */
export class RedisReader {
  private readonly logger: Logger;
  private readonly keys: QueueKeys;
  private readonly consumer = randomUUID();
  private readonly reader: RedisConnection;
  private readonly inFlight = new InFlight();
  /** Entries that are being handled here and are not acknowledged yet. */
  private readonly taken = new Set<string>();
  /** Entries that are done, but whose acknowledgement did not get through. */
  private readonly unsettled = new Set<string>();
  /** Offset of Redis's clock from `performance.now()`, which is monotonic. */
  private clockOffsetMs = 0;
  private isStopping = false;
  private hasReconnected = true;
  private isResuming = true;
  private reading: Promise<void> = Promise.resolve();
  private takingOver: Promise<void> | undefined;
  private lifeSigns: NodeJS.Timeout | undefined;
  private wake: (() => void) | undefined;
  /** Collects what is settled at the end of the turn. */
  private settlement: Settlement | undefined;
  private readerId = 0;
  private serverId: string | undefined;
  /** In terms of `performance.now()`. */
  private restUntil = 0;
  private restMs = firstRestMs;
  /** Whether there was no other instance that takes requests and does not fail, at the last sign of life of this one. */
  private isAlone = true;
  private readonly ejection: SelfEjection;

  constructor(
    module: string,
    url: string,
    private readonly commands: RedisConnection,
    private readonly work: Work,
  ) {
    this.logger = new Logger(`Queue of ${module}`);
    this.keys = queueKeys(module);
    this.reader = redisConnection(url, `reads-${module}`);
    this.ejection = new SelfEjection(module, () => work.canServe(), this.tellEjection);
  }

  /** Whether the connection that reads requests is up. */
  get isReached(): boolean {
    return this.reader.isReady;
  }

  async start(): Promise<void> {
    // The `commands` connection reports outages.
    this.reader.on('error', () => undefined);
    this.reader.on('ready', () => {
      this.hasReconnected = true;
      this.wake?.();
    });
    await openPatiently(this.reader);
    await askPatiently(this.commands, () => this.createGroup());
    await askPatiently(this.commands, () => this.showLife());
    if (this.isStopping) return;
    // Registers at once with a Redis that comes back empty.
    this.commands.on('ready', this.keepAlive);
    this.lifeSigns = setInterval(this.keepAlive, lifeSignMs);
    this.reading = this.readUntilStopped();
  }

  /** Stops reading and finishes the requests taken; the last instance also finishes those still queued. */
  async stop(): Promise<void> {
    this.isStopping = true;
    this.ejection.close();
    this.wake?.();
    try {
      await this.showLife();
      await this.stopReading();
      if (this.isAlone) await this.readTheRest();
    } catch (error) {
      this.logger.warn(`Redis was unreachable during shutdown (${(error as Error).message})`);
    }
    shut(this.reader);
    await this.reading;
    if (!(await this.inFlight.idle(drainMs))) {
      this.logger.error(
        `${this.inFlight.count} requests were not finished within ${drainMs} ms and are left in the queue`,
      );
    }
    clearInterval(this.lifeSigns);
    this.commands.off('ready', this.keepAlive);
    await this.leave().catch((error: Error) => this.logger.warn(`Leaving the group failed: ${error.message}`));
  }

  private async stopReading(): Promise<void> {
    await this.unblock();
    await this.reading;
  }

  /** The read then returns nothing; cutting the connection could lose a request that is being delivered. */
  private async unblock(): Promise<void> {
    if (this.reader.isReady && this.readerId) await this.commands.clientUnblock(this.readerId);
  }

  /** Terminates, because no client adds requests once no instance accepts them. */
  private async readTheRest(): Promise<void> {
    const giveUpAt = performance.now() + drainMs;
    while (performance.now() < giveUpAt) {
      const entries = await this.read(undefined);
      if (entries.length === 0) return;
      for (const entry of entries) this.take(entry, false);
    }
  }

  private async leave(): Promise<void> {
    await this.settleAgain();
    const { requests, alive } = this.keys;
    const left = await this.commands.xPendingRange(requests, group, '-', '+', 1, { consumer: this.consumer });
    // Deleting a consumer drops its pending entries, which others must take over.
    if (left.length === 0) await this.commands.xGroupDelConsumer(requests, group, this.consumer);
    await this.commands.zRem(alive, this.consumer);
  }

  private async createGroup(): Promise<void> {
    try {
      await this.commands.xGroupCreate(this.keys.requests, group, '0', { MKSTREAM: true });
    } catch (error) {
      if (!(error as Error).message.startsWith('BUSYGROUP')) throw error;
    }
  }

  private async readUntilStopped(): Promise<void> {
    while (!this.isStopping) {
      try {
        if (this.hasReconnected) await this.resume();
        if (this.isEjected) {
          await this.untilWoken(lifeSignMs);
          continue;
        }
        const isProbing = this.ejection.state === 'probing' && !this.isAlone;
        // For no longer, because a request may take as long as its deadline.
        if (isProbing) await this.inFlight.idle(lifeSignMs);
        const rest = this.restUntil - performance.now();
        if (rest > 0) await sleep(rest);
        if (this.isStopping) break;
        // One at a time after a pause, to probe whether there is room again.
        const count = rest > 0 || isProbing ? 1 : readAtOnce;
        await this.takeAll(await this.read(blockMs, count));
      } catch (error) {
        await this.afterFailure(error as Error);
      }
    }
  }

  /** After every connect: requests delivered while the previous connection broke have not arrived here. */
  private async resume(): Promise<void> {
    this.hasReconnected = false;
    this.isResuming = true;
    await this.takingOver;
    this.readerId = await this.reader.clientId();
    this.serverId = await serverIdOf(this.reader);
    if (this.serverId === undefined) {
      const risk = 'after a failover, calls that must not be repeated may be carried out twice';
      this.logger.warn(`Redis does not tell which server it is; ${risk}. Allow its user INFO.`);
    }
    await this.createGroup();
    // Pending requests are read over `commands`, which may lead to another server in a failover.
    await this.takeUnseen(0, (await serverIdOf(this.commands)) === this.serverId);
    this.isResuming = false;
  }

  /**
   * Handles entries that Redis has delivered to this consumer but that never arrived.
   *
   * @param areNew whether those that were delivered once are known not to have been carried out
   */
  private async takeUnseen(idleMs: number, areNew: boolean): Promise<void> {
    const known = new Set([...this.taken, ...this.unsettled]);
    for await (const some of this.pendingOf(this.consumer, idleMs)) {
      const unseen = some.filter(({ id }) => !known.has(id) && !this.taken.has(id) && !this.unsettled.has(id));
      // Entries that were claimed from another consumer but did not arrive here may have been carried out by that one.
      const own = unseen.filter((it) => areNew && isFirstDelivery(it));
      for (const entry of await this.claim(own, 0)) this.take(entry, false);
      const others = unseen.filter((it) => !own.includes(it));
      await this.inherit(await this.claim(others, 0));
    }
  }

  private async read(block: number | undefined, count = readAtOnce): Promise<Entry[]> {
    while (this.hasReconnected) await this.resume();
    const streams = await this.reader.xReadGroup(
      group,
      this.consumer,
      { key: this.keys.requests, id: '>' },
      { COUNT: count, ...(block !== undefined && { BLOCK: block }) },
    );
    const found = (streams as { messages: RawEntry[] }[] | null) ?? [];
    return found.flatMap(({ messages }) => messages.flatMap((raw) => this.entryOf(raw)));
  }

  private entryOf(raw: RawEntry): Entry[] {
    if (!raw) return [];
    // Any field may be missing. `body` gets a default, because its length is read before the request is validated.
    return [{ id: raw.id, request: { body: '', ...raw.message } as unknown as QueuedRequest }];
  }

  private untilWoken(timeoutMs?: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = timeoutMs === undefined ? undefined : setTimeout(resolve, timeoutMs);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  private async afterFailure(error: Error): Promise<void> {
    if (this.isStopping) return;
    this.hasReconnected = true;
    leaveReplica(error, this.reader, this.commands);
    // NOGROUP means that Redis came back empty or was emptied; a lost connection has been reported already.
    const isExpected =
      /NOGROUP|UNBLOCKED|READONLY/.test(error.message) || !this.reader.isReady || !this.commands.isReady;
    if (!isExpected) this.logger.error(`Reading failed: ${error.message}`);
    await this.untilWoken(this.reader.isReady ? retryMs : undefined);
  }

  /** Yields to the event loop between large requests, so that replies are sent before the last one is carried out. */
  private async takeAll(entries: readonly Entry[]): Promise<void> {
    let characters = 0;
    for (const entry of entries) {
      this.take(entry, false);
      characters += entry.request.body.length;
      if (characters < largestAtOnce) continue;
      characters = 0;
      await nextTurn();
    }
  }

  private take(entry: Entry, isInherited: boolean): void {
    if (this.taken.has(entry.id)) return;
    this.taken.add(entry.id);
    void this.inFlight
      .during(() => this.handle(entry, isInherited))
      .finally(() => {
        this.taken.delete(entry.id);
      });
  }

  /** Never rejects. */
  private async handle({ id, request }: Entry, isInherited: boolean): Promise<void> {
    try {
      const meta = JSON.parse(request.meta) as Record<string, unknown>;
      if (!request.channel || !request.id) throw new Error('it names no channel for its reply');
      const queuedMs = performance.now() + this.clockOffsetMs - writtenAt(id);
      const remainingMs = Number(meta['remainingMs']) - Math.max(0, queuedMs);
      if (remainingMs <= 0) return await this.settle(id);
      if ((isInherited || this.isOfOtherServer(meta)) && !this.work.mayRepeat(request.pattern)) {
        return await this.settle(id, request, { err: lostOnTheWay });
      }
      const outcome = await this.work.carryOut(request, { ...meta, remainingMs });
      this.ejection.answered(outcome.err);
      if (!isTooMuch(outcome.err)) {
        this.restMs = firstRestMs;
        return await this.settle(id, request, outcome);
      }
      // While the queue moves, requests still in it are better served by another instance, if there is one.
      if (queuedMs < patienceMs && !this.isAlone) this.rest();
      await this.settle(id, request, isInherited ? { err: lostOnTheWay } : outcome);
    } catch (error) {
      this.logger.error(`A malformed request was dropped: ${(error as Error).message}`);
      await this.settle(id);
    }
  }

  /**
   * A replica that has become the primary, and a server that was restarted, may lack what was done last: that an instance
   * has read the request, or even answered it. Callers of older versions do not name the server, and Redis may not tell it.
   */
  private isOfOtherServer({ server }: Record<string, unknown>): boolean {
    return server !== undefined && this.serverId !== undefined && server !== this.serverId;
  }

  private rest(): void {
    const now = performance.now();
    if (this.restUntil > now) return;
    this.restUntil = now + this.restMs;
    this.restMs = Math.min(2 * this.restMs, patienceMs);
  }

  /** Batches all requests that are settled in the same turn of the event loop. */
  private settle(id: string, request?: QueuedRequest, outcome?: Outcome): Promise<void> {
    const settled = { id, reply: request && outcome && replyTo(request, outcome) };
    const length = lengthToSettle(settled);
    if (this.settlement && this.settlement.length + length > largestAtOnce) this.settlement = undefined;
    const settlement = (this.settlement ??= this.beginSettlement());
    settlement.all.push(settled);
    settlement.length += length;
    return settlement.done;
  }

  private beginSettlement(): Settlement {
    const settlement: Settlement = { all: [], length: 0, done: Promise.resolve() };
    const turn = new Promise<void>((resolve) => process.nextTick(resolve));
    settlement.done = turn.then(() => {
      if (this.settlement === settlement) this.settlement = undefined;
      return this.settleAll(settlement.all);
    });
    return settlement;
  }

  /** Publishes the replies, and acknowledges and deletes the requests, in one transaction. */
  private async settleAll(all: readonly Settled[]): Promise<void> {
    const { requests } = this.keys;
    const ids = all.map((it) => it.id);
    try {
      const batch = this.commands.multi();
      const replies = all.flatMap(({ reply }) => reply ?? []);
      for (const { large } of replies)
        if (large) batch.set(large.at, large.response, { expiration: { type: 'PX', value: replyKeptMs } });
      for (const { channel, text } of publications(replies)) batch.publish(channel, text);
      await batch.xAck(requests, group, ids).xDel(requests, ids).exec();
    } catch (error) {
      // Redis may reject a large reply for lack of memory; settled one by one, the others still succeed.
      if (all.length > 1 && this.commands.isReady) {
        await Promise.all(all.map((it) => this.settleAll([it])));
        return;
      }
      // The caller has lost its connection to the same Redis too and knows, or fails at its deadline.
      for (const id of ids) this.unsettled.add(id);
      this.logger.warn(`Replies could not be sent: ${(error as Error).message}`);
    }
  }

  private async settleAgain(): Promise<void> {
    const ids = [...this.unsettled];
    if (ids.length === 0) return;
    // No transaction, because that would wait for a Redis that is away.
    const { requests } = this.keys;
    await Promise.all([this.commands.xAck(requests, group, ids), this.commands.xDel(requests, ids)]);
    for (const id of ids) this.unsettled.delete(id);
  }

  private async showLife(): Promise<void> {
    const before = performance.now();
    // Also while it is probing, so that no other one leaves its requests to it.
    const state = this.ejection.state === 'accepting' ? 'accepting' : 'failing';
    const { redisTime, others } = await this.commands.showLife(
      this.keys,
      this.consumer,
      this.isStopping ? 'leaving' : state,
    );
    const wasEjected = this.isEjected;
    // Less than 0 if Redis has lost one of the sets.
    this.isAlone = others <= 0;
    if (wasEjected && !this.isEjected) this.wake?.();
    // An answer that took long does not say when Redis read its clock: what was known before is better, if it is possible.
    const [least, most] = [redisTime - performance.now(), redisTime - before];
    if (this.clockOffsetMs < least || this.clockOffsetMs > most) this.clockOffsetMs = (least + most) / 2;
  }

  /** Whether others take the requests, because this instance fails. */
  private get isEjected(): boolean {
    return this.ejection.state === 'ejected' && !this.isAlone;
  }

  private readonly tellEjection = (): void => {
    if (this.isStopping || !this.commands.isReady) return;
    if (!this.isEjected) this.wake?.();
    const told = Promise.all([this.showLife(), this.isEjected ? this.unblock() : undefined]);
    told.catch((error: Error) => this.tellUnlessLost(error));
  };

  private readonly keepAlive = (): void => {
    if (!this.commands.isReady) return;
    // Also during a takeover, however long that takes: otherwise this instance would count as dead itself.
    const shown = this.showLife();
    if (this.takingOver) {
      shown.catch((error: Error) => this.tellUnlessLost(error));
      return;
    }
    this.takingOver = shown
      .then(() => this.settleAgain())
      .then(() => (this.isStopping || this.isResuming || this.isEjected ? undefined : this.takeOver()))
      .catch((error: Error) => this.tellUnlessLost(error))
      .finally(() => {
        this.takingOver = undefined;
      });
  };

  /** NOGROUP is expected: without the group there is nothing to take over, and reading creates it again. */
  private tellUnlessLost(error: Error): void {
    leaveReplica(error, this.commands);
    const { message } = error;
    if (this.commands.isReady && !message.startsWith('NOGROUP')) this.logger.warn(message);
  }

  /** Takes over the requests of dead instances, and deletes consumers that left none. */
  private async takeOver(): Promise<void> {
    const { requests, alive } = this.keys;
    // Those of this connection have arrived by now: a server that has others has forgotten that they were answered.
    await this.takeUnseen(aliveMs, false);
    const [consumers, living] = await Promise.all([
      this.commands.xInfoConsumers(requests, group),
      this.commands.zRange(alive, 0, -1),
    ]);
    const dead = consumers.filter(({ name }) => name !== this.consumer && !living.includes(name));
    for (const { name, pending, idle } of dead) {
      if (pending > 0) {
        // The minimum idle time lets only one of several instances win, because claiming an entry resets its idle time.
        for await (const some of this.pendingOf(name, lifeSignMs))
          await this.inherit(await this.claim(some, lifeSignMs));
      } else if (pending === 0 && idle > forgetConsumerMs) {
        await this.commands.xGroupDelConsumer(requests, group, name);
      }
    }
  }

  /** Waits for room before each; entries that are not claimed yet stay available to other instances meanwhile. */
  private async inherit(entries: readonly Entry[]): Promise<void> {
    let patientUntil = performance.now() + patienceMs;
    for (const entry of entries) {
      while (this.isTooMuch(entry) && performance.now() < patientUntil) await sleep(roomLookMs);
      if (this.isStopping) return;
      // While there is room from time to time, the remaining entries keep waiting for it.
      if (!this.isTooMuch(entry)) patientUntil = performance.now() + patienceMs;
      this.take(entry, true);
    }
  }

  private isTooMuch({ request: { pattern } }: Entry): boolean {
    return !this.isStopping && this.work.mayRepeat(pattern) && this.work.isFull(pattern);
  }

  /** In pages, until there are no more. */
  private async *pendingOf(consumer: string, idleMs: number): AsyncGenerator<Pending[]> {
    const options = { consumer, IDLE: idleMs };
    for (let from = '-'; !this.isStopping;) {
      const pending = await this.commands.xPendingRange(this.keys.requests, group, from, '+', readAtOnce, options);
      const last = pending.at(-1);
      if (!last) return;
      yield pending;
      from = `(${last.id}`;
    }
  }

  private async claim(pending: readonly Pending[], idleMs: number): Promise<Entry[]> {
    if (pending.length === 0) return [];
    const ids = pending.map(({ id }) => id);
    const claimed = await this.commands.xClaim(this.keys.requests, group, this.consumer, idleMs, ids);
    return claimed.flatMap((raw) => this.entryOf(raw));
  }
}
