import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { Injectable, Logger, type BeforeApplicationShutdown, type OnApplicationBootstrap } from '@nestjs/common';
import { CleaveError, type StockEffect } from '#contracts';
import { stockEffectOf, type HistoryEntry } from '../domain/order.js';

/** A place in the outbox: after the row `id` of the transaction `xid`. Both are decimal texts of 64-bit integers. */
export interface Position {
  xid: string;
  id: string;
}

/** The right to read the outbox for a while. A reader whose lease ran out finds its epoch passed and writes nothing. */
export interface Lease {
  epoch: string;
  position: Position;
}

/** An event of an order, as the relay needs it. */
export interface OutboxEvent extends Position, Pick<HistoryEntry, 'type' | 'status' | 'data' | 'version'> {
  tenant: string;
  reservationId: string;
}

/** The outbox as the consumer `stock` reads it: once a commit is in, in commit order, by one reader at a time. */
export abstract class Outbox {
  /** @returns `undefined` while another reader has the lease */
  abstract acquire(holder: string, leaseMs: number): Promise<Lease | undefined>;
  abstract read(after: Position, limit: number): Promise<OutboxEvent[]>;
  /** Moves the checkpoint. @returns whether the lease still held */
  abstract advance(lease: Lease, to: Position): Promise<boolean>;
  abstract release(holder: string): Promise<void>;
}

export abstract class StockSettler {
  /**
   * Idempotent by reservation and version.
   * @returns the effects that cannot be applied, however often they are delivered
   */
  abstract settle(
    tenant: string,
    effects: readonly StockEffect[],
  ): Promise<readonly Pick<StockEffect, 'reservation_id' | 'version'>[]>;
}

/** Also how long the outbox waits after its reader was killed. */
const leaseMs = 5_000;
const batchSize = 1_000;
/** In one call; an effect of more lines goes alone. */
const linesAtOnce = 5_000;
/** How often the outbox is looked at without being woken: another instance may have written, or this one been deaf. */
const pollMs = 500;
/** Between two deliveries, so that what happens meanwhile goes in one: a delivery costs the same for ten as for one. */
const paceMs = 50;
const longestPauseMs = 5_000;

/** Relays from the outbox to inventory what became of orders. Delivered at least once, applied once, in order. */
@Injectable()
export class RelayOutbox implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private readonly logger = new Logger(RelayOutbox.name);
  private readonly holder = randomUUID();
  private lease: Lease | undefined;
  private leasedUntil = 0;
  private stopping = false;
  private awake = false;
  private wakeUp: () => void = () => {};
  private running: Promise<void> = Promise.resolve();

  constructor(
    private readonly outbox: Outbox,
    private readonly stock: StockSettler,
  ) {}

  onApplicationBootstrap(): void {
    this.running = this.run();
  }

  /** Finishes what is under way; the rest waits in the outbox for the next reader. */
  async beforeApplicationShutdown(): Promise<void> {
    this.stopping = true;
    this.wake();
    await this.running;
  }

  /** There is something new to deliver. */
  wake(): void {
    this.awake = true;
    this.wakeUp();
  }

  private async run(): Promise<void> {
    let failures = 0;
    while (!this.stopping) {
      try {
        const delivered = await this.deliver();
        if (failures > 0) this.logger.log('the outbox is being delivered to inventory again');
        failures = 0;
        if (delivered < batchSize) {
          await this.pause(pollMs);
          if (!this.stopping) await setTimeout(paceMs);
        }
      } catch (error) {
        failures += 1;
        this.lease = undefined;
        if (failures === 1)
          this.logger.warn(`cannot deliver the outbox to inventory, trying again until it works (${reasonOf(error)})`);
        await this.pause(Math.min(longestPauseMs, 50 * 2 ** failures), true);
      }
    }
    await this.outbox.release(this.holder).catch((error: unknown) => {
      this.logger.warn(`the lease on the outbox runs out by itself (${reasonOf(error)})`);
    });
  }

  /** @returns how many events were delivered */
  private async deliver(): Promise<number> {
    this.awake = false;
    if (!this.lease || Date.now() > this.leasedUntil - leaseMs / 2) {
      this.lease = await this.outbox.acquire(this.holder, leaseMs);
      this.leasedUntil = Date.now() + leaseMs;
    }
    if (!this.lease) return 0;
    const events = await this.outbox.read(this.lease.position, batchSize);
    const last = events.at(-1);
    if (!last) return 0;
    for (const [tenant, group] of Map.groupBy(events, (it) => it.tenant))
      for (const part of partsOf(group.flatMap(effectsOf))) await this.settle(tenant, part);
    const position = { xid: last.xid, id: last.id };
    if (await this.outbox.advance(this.lease, position)) this.lease.position = position;
    else this.lease = undefined;
    return events.length;
  }

  /** What cannot be applied is told to the operator and holds up nobody else: its event stays in the outbox. */
  private async settle(tenant: string, effects: readonly StockEffect[]): Promise<void> {
    for (const { reservation_id, version } of await this.stock.settle(tenant, effects))
      this.logger.error(
        `inventory cannot apply version ${version} of the order of reservation ${reservation_id} (tenant ${tenant}): ` +
          'it holds fewer units than the order says, or does not know a product. Count the products of the order anew.',
      );
  }

  /** Waits until there is something to do; `regardless` of being woken after a failure. */
  private async pause(ms: number, regardless = false): Promise<void> {
    if (this.stopping || (this.awake && !regardless)) return;
    const woken = new AbortController();
    this.wakeUp = () => {
      if (!regardless || this.stopping) woken.abort();
    };
    await setTimeout(ms, undefined, { signal: woken.signal }).catch(() => undefined);
    this.wakeUp = () => {};
  }
}

const effectsOf = ({ version, reservationId, ...entry }: OutboxEvent): StockEffect[] => {
  const effect = stockEffectOf(entry);
  if (!effect) return [];
  const { kind, lines } = effect;
  const units = lines && { lines: lines.map(({ product_id, quantity }) => ({ product_id, quantity })) };
  return [{ reservation_id: reservationId, version, kind, ...units }];
};

/** Parts that fit into one call, in order. */
const partsOf = (effects: readonly StockEffect[]): StockEffect[][] => {
  const parts: StockEffect[][] = [];
  let lines = 0;
  for (const effect of effects) {
    const part = parts.at(-1);
    const more = effect.lines?.length ?? 0;
    lines += more;
    if (part && part.length < batchSize && lines <= linesAtOnce) part.push(effect);
    else {
      parts.push([effect]);
      lines = more;
    }
  }
  return parts;
};

const reasonOf = (error: unknown): string =>
  error instanceof CleaveError ? `${error.code}: ${error.detail}` : String(error);
