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
  bytesOf,
  framesChannel,
  group,
  largestAtOnce,
  largestPublished,
  leaveReplica,
  openPatiently,
  queueKeys,
  redisConnection,
  shut,
  type PublishedReply,
  type QueuedRequest,
  type QueueKeys,
  type RedisConnection,
} from './redis-queue.js';
import { isTooMuch, type WireError } from './wire.js';

/** Few at a time, so that several instances share a burst. */
const readAtOnce = 32;
const blockMs = 2_000;
const lifeSignMs = 1_000;
const forgetConsumerMs = 600_000;
const retryMs = 200;
const replyKeptMs = 30_000;
/** Who had to refuse something leaves the rest to others for so long at first, and longer each time … */
const firstRestMs = 50;
/** … but for what has waited for so long: then there is too much for all, and it is refused before its deadline. */
const patienceMs = 250;
/** What is taken over waits for room in such steps. */
const roomLookMs = 10;

export interface Work {
  /** Carries out one request; never rejects. */
  carryOut(request: QueuedRequest, meta: Record<string, unknown>): Promise<Outcome>;
  /** Whether the operation may be carried out again when an instance died over it. */
  mayRepeat(pattern: string): boolean;
  /** Whether one more of an operation that may be repeated would be refused at present. */
  isFull(pattern: string): boolean;
}

interface Entry {
  id: string;
  request: QueuedRequest;
}

/** An entry that was read and is not acknowledged. */
interface Pending {
  id: string;
  deliveriesCounter: number;
}

const isFirstDelivery = ({ deliveriesCounter }: Pending): boolean => deliveriesCounter === 1;

type RawEntry = { id: string; message: Record<string, string> } | null;

const lostOnTheWay: WireError = {
  code: 'unavailable',
  detail: 'The instance that was processing the request is gone; it may have been carried out or not',
  extensions: {},
};

/** A reply as it is published, and where. */
interface Reply {
  channel: string;
  text: string;
  /** The response, where it is put to be fetched because it is large. */
  large: { at: string; response: string } | undefined;
}

interface Settled {
  id: string;
  reply: Reply | undefined;
}

/** What is settled together. */
interface Settlement {
  all: Settled[];
  bytes: number;
  done: Promise<void>;
}

/** A frame for who understands it, JSON for others, who are of a version that does not. */
function replyTo({ channel, id }: QueuedRequest, { response, err }: Outcome): Reply {
  const isLarge = typeof response === 'string' && response.length > largestPublished;
  const large = isLarge ? { at: `cleave:reply:${randomUUID()}`, response } : undefined;
  const whole: PublishedReply = { id, response, err };
  const reply: PublishedReply = large ? { id, err, responseAt: large.at } : whole;
  return { channel, text: channel.startsWith(framesChannel) ? frameOf(reply) : JSON.stringify(reply), large };
}

/** What is published: frames, as many in one message as it may hold, and other texts each by itself. */
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

/** A settled request is named twice, where it is acknowledged and where it is deleted. */
const bytesToSettle = ({ id, reply }: Settled): number =>
  bytesOf(id, id) +
  (reply ? bytesOf(reply.channel, reply.text) : 0) +
  (reply?.large ? bytesOf(reply.large.at, reply.large.response) : 0);

const writtenAt = (entryId: string): number => Number(entryId.slice(0, entryId.indexOf('-')));

/**
 * Reads the queue of one module as one consumer of its group. It takes what there is: the limiter decides what is let in,
 * and refuses the rest at once, which left in the queue would hear of it at its deadline. Where others answer as well, one that
 * had to refuse leaves them what is new for a moment.
 *
 * A request is acknowledged and deleted once its reply has been published. What an instance had read when it died is taken
 * over by another as soon as its sign of life has expired: carried out again if the operation is idempotent and its
 * deadline has not passed, refused otherwise; few at a time, and not before the limiter has room for them. An instance that
 * is merely slow, or draining, keeps its requests.
 */
export class RedisReader {
  private readonly logger: Logger;
  private readonly keys: QueueKeys;
  private readonly consumer = randomUUID();
  private readonly reader: RedisConnection;
  private readonly inFlight = new InFlight();
  /** Entries that have been taken up here and are not acknowledged yet. */
  private readonly taken = new Set<string>();
  /** Entries that are done, but whose acknowledgement did not get through. */
  private readonly unsettled = new Set<string>();
  /** What the clock of Redis is ahead of `performance.now()`, which nobody sets. */
  private clockOffsetMs = 0;
  private isStopping = false;
  private hasReconnected = true;
  private isResuming = true;
  private reading: Promise<void> = Promise.resolve();
  private takingOver: Promise<void> | undefined;
  private lifeSigns: NodeJS.Timeout | undefined;
  private wake: (() => void) | undefined;
  /** What is settled at the end of the turn. */
  private settlement: Settlement | undefined;
  private readerId = 0;
  /** By `performance.now()`. */
  private restUntil = 0;
  private restMs = firstRestMs;
  /** As far as was known a second ago. */
  private isAlone = true;

  constructor(
    module: string,
    url: string,
    private readonly commands: RedisConnection,
    private readonly work: Work,
  ) {
    this.logger = new Logger(`Queue of ${module}`);
    this.keys = queueKeys(module);
    this.reader = redisConnection(url, `reads-${module}`);
  }

  /** Its own connection, over which requests come. */
  get isReached(): boolean {
    return this.reader.isReady;
  }

  async start(): Promise<void> {
    // The other connection tells of outages.
    this.reader.on('error', () => undefined);
    this.reader.on('ready', () => {
      this.hasReconnected = true;
      this.wake?.();
    });
    await openPatiently(this.reader);
    await askPatiently(this.commands, () => this.createGroup());
    await askPatiently(this.commands, () => this.showLife());
    if (this.isStopping) return;
    // A Redis that comes back empty hears of us at once.
    this.commands.on('ready', this.keepAlive);
    this.lifeSigns = setInterval(this.keepAlive, lifeSignMs);
    this.reading = this.readUntilStopped();
  }

  /** Takes no more requests and finishes those that were taken; when this was the last instance, also those that wait. */
  async stop(): Promise<void> {
    this.isStopping = true;
    this.wake?.();
    try {
      await this.commands.zRem(this.keys.accepting, this.consumer);
      const others = await this.commands.zCard(this.keys.accepting);
      await this.stopReading();
      if (others === 0) await this.readTheRest();
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
    // A connection that is cut while it waits could take a request with it; this one returns with nothing.
    if (this.reader.isReady && this.readerId) await this.commands.clientUnblock(this.readerId);
    await this.reading;
  }

  /** Nobody adds requests any more once no instance accepts them. */
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
    // Deleting a consumer forgets what it had pending; that is for the others to take over.
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
        const rest = this.restUntil - performance.now();
        if (rest > 0) await sleep(rest);
        // One by one after a rest, to see whether there is room again.
        const count = rest > 0 ? 1 : readAtOnce;
        await this.takeAll(await this.read(blockMs, count));
      } catch (error) {
        await this.afterFailure(error as Error);
      }
    }
  }

  /** After every connect: requests that were delivered while the last connection broke have not been seen here. */
  private async resume(): Promise<void> {
    this.hasReconnected = false;
    this.isResuming = true;
    await this.takingOver;
    this.readerId = await this.reader.clientId();
    await this.createGroup();
    await this.takeUnseen(0);
    this.isResuming = false;
  }

  /** Takes up what Redis has delivered to this consumer and what has never arrived. */
  private async takeUnseen(idleMs: number): Promise<void> {
    const known = new Set([...this.taken, ...this.unsettled]);
    for await (const some of this.pendingOf(this.consumer, idleMs)) {
      const unseen = some.filter(({ id }) => !known.has(id) && !this.taken.has(id) && !this.unsettled.has(id));
      // What was claimed from another and has not arrived either may have been carried out by that one.
      const [own, claimed] = [unseen.filter(isFirstDelivery), unseen.filter((it) => !isFirstDelivery(it))];
      for (const entry of await this.claim(own, 0)) this.take(entry, false);
      await this.inherit(await this.claim(claimed, 0));
    }
  }

  private async read(block: number | undefined, count = readAtOnce): Promise<Entry[]> {
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
    // Whoever wrote it may have left anything out. How long the body is counts before the rest is looked at.
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
    // Without its stream, Redis came back empty or was emptied; without its connection, that has been told.
    const isExpected =
      /NOGROUP|UNBLOCKED|READONLY/.test(error.message) || !this.reader.isReady || !this.commands.isReady;
    if (!isExpected) this.logger.error(`Reading failed: ${error.message}`);
    await this.untilWoken(this.reader.isReady ? retryMs : undefined);
  }

  /** Large ones some at a time, so that what they are answered with leaves before the last of them is carried out. */
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
      if (isInherited && !this.work.mayRepeat(request.pattern)) {
        return await this.settle(id, request, { err: lostOnTheWay });
      }
      const outcome = await this.work.carryOut(request, { ...meta, remainingMs });
      if (!isTooMuch(outcome.err)) {
        this.restMs = firstRestMs;
        return await this.settle(id, request, outcome);
      }
      // Those who wait in a queue that moves are better off with another instance, where there is one.
      if (queuedMs < patienceMs && !this.isAlone) this.rest();
      await this.settle(id, request, isInherited ? { err: lostOnTheWay } : outcome);
    } catch (error) {
      this.logger.error(`A malformed request was dropped: ${(error as Error).message}`);
      await this.settle(id);
    }
  }

  private rest(): void {
    const now = performance.now();
    if (this.restUntil > now) return;
    this.restUntil = now + this.restMs;
    this.restMs = Math.min(2 * this.restMs, patienceMs);
  }

  /** Together with all that are settled in the same turn of the event loop. */
  private settle(id: string, request?: QueuedRequest, outcome?: Outcome): Promise<void> {
    const settled = { id, reply: request && outcome && replyTo(request, outcome) };
    const bytes = bytesToSettle(settled);
    if (this.settlement && this.settlement.bytes + bytes > largestAtOnce) this.settlement = undefined;
    const settlement = (this.settlement ??= this.beginSettlement());
    settlement.all.push(settled);
    settlement.bytes += bytes;
    return settlement.done;
  }

  private beginSettlement(): Settlement {
    const settlement: Settlement = { all: [], bytes: 0, done: Promise.resolve() };
    const turn = new Promise<void>((resolve) => process.nextTick(resolve));
    settlement.done = turn.then(() => {
      if (this.settlement === settlement) this.settlement = undefined;
      return this.settleAll(settlement.all);
    });
    return settlement;
  }

  /** Replies, acknowledges and deletes, in one go. */
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
      // One that Redis does not take, having no room for what is large, is not to take the others with it.
      if (all.length > 1 && this.commands.isReady) {
        await Promise.all(all.map((it) => this.settleAll([it])));
        return;
      }
      // Who asked has lost its connection to the same Redis and knows, or hears of it at its deadline.
      for (const id of ids) this.unsettled.add(id);
      this.logger.warn(`Replies could not be sent: ${(error as Error).message}`);
    }
  }

  private async settleAgain(): Promise<void> {
    const ids = [...this.unsettled];
    if (ids.length === 0) return;
    await this.commands.multi().xAck(this.keys.requests, group, ids).xDel(this.keys.requests, ids).exec();
    for (const id of ids) this.unsettled.delete(id);
  }

  private async showLife(): Promise<void> {
    const before = performance.now();
    const [redisTime, accepting] = await Promise.all([
      this.commands.showLife(this.keys, this.consumer, !this.isStopping),
      this.commands.zCard(this.keys.accepting),
    ]);
    this.isAlone = accepting <= 1;
    this.clockOffsetMs = redisTime - (before + performance.now()) / 2;
  }

  private readonly keepAlive = (): void => {
    if (!this.commands.isReady) return;
    // Also while it takes over, however long that takes: it would count as dead itself.
    const shown = this.showLife();
    if (this.takingOver) {
      shown.catch((error: Error) => this.tellUnlessLost(error));
      return;
    }
    this.takingOver = shown
      .then(() => this.settleAgain())
      .then(() => (this.isStopping || this.isResuming ? undefined : this.takeOver()))
      .catch((error: Error) => this.tellUnlessLost(error))
      .finally(() => {
        this.takingOver = undefined;
      });
  };

  /** Without its group there is nothing to take over; reading creates it again. */
  private tellUnlessLost(error: Error): void {
    leaveReplica(error, this.commands);
    const { message } = error;
    if (this.commands.isReady && !message.startsWith('NOGROUP')) this.logger.warn(message);
  }

  /** Takes over what dead instances had read, and forgets those that left nothing. */
  private async takeOver(): Promise<void> {
    const { requests, alive } = this.keys;
    await this.takeUnseen(aliveMs);
    const [consumers, living] = await Promise.all([
      this.commands.xInfoConsumers(requests, group),
      this.commands.zRange(alive, 0, -1),
    ]);
    const dead = consumers.filter(({ name }) => name !== this.consumer && !living.includes(name));
    for (const { name, pending, idle } of dead) {
      if (pending > 0) {
        // The least idle time lets one of several instances win: claiming an entry makes it fresh.
        for await (const some of this.pendingOf(name, lifeSignMs))
          await this.inherit(await this.claim(some, lifeSignMs));
      } else if (pending === 0 && idle > forgetConsumerMs) {
        await this.commands.xGroupDelConsumer(requests, group, name);
      }
    }
  }

  /** Each once there is room for it; those that are not claimed yet are left to others until then. */
  private async inherit(entries: readonly Entry[]): Promise<void> {
    let patientUntil = performance.now() + patienceMs;
    for (const entry of entries) {
      while (this.isTooMuch(entry) && performance.now() < patientUntil) await sleep(roomLookMs);
      if (this.isStopping) return;
      // As long as there is room now and then, the rest waits for it.
      if (!this.isTooMuch(entry)) patientUntil = performance.now() + patienceMs;
      this.take(entry, true);
    }
  }

  private isTooMuch({ request: { pattern } }: Entry): boolean {
    return !this.isStopping && this.work.mayRepeat(pattern) && this.work.isFull(pattern);
  }

  /** Some at a time, until there are no more. */
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
