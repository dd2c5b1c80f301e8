import { Injectable } from '@nestjs/common';
import type { StockEffect } from '#contracts';
import { Checkpoints, EventConsumer, EventSource, type Checkpoint, type Logged } from '#events';
import { stockEffectOf, type HistoryEntry } from '../domain/order.js';

/** An event of an order, as the relay needs it. */
export interface OutboxEvent extends Logged, Pick<HistoryEntry, 'type' | 'status' | 'data' | 'version'> {
  tenant: string;
  reservationId: string;
}

/** The events of orders, in commit order: an event is visible once no earlier one can still appear. */
export abstract class Outbox extends EventSource<OutboxEvent> {}

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

const batchSize = 1_000;
/** In one call; an effect of more lines goes alone. */
const linesAtOnce = 5_000;
/**
 * Each tenant of a batch is a call: one after the other, a batch of many would take as long as they are many. No more, as each
 * takes a connection of inventory, and other instances tell it as well.
 */
const tenantsAtOnce = 2;
/** Also how late another instance's events are, whose part is read here. */
const pollMs = 100;
/** What happens meanwhile goes in one delivery: it costs the same for ten as for one. */
const paceMs = 50;

/** Sends the events of orders from the outbox to inventory, which lets the stock follow: in order, at least once, applied once. */
@Injectable()
export class RelayOutbox extends EventConsumer<OutboxEvent> {
  constructor(
    checkpoints: Checkpoints,
    outbox: Outbox,
    private readonly stock: StockSettler,
  ) {
    super('stock', checkpoints, outbox, {
      ...{ batchSize, pollMs, paceMs },
      failing: 'cannot deliver the outbox to inventory, trying again until it works',
      working: 'the outbox is being delivered to inventory again',
    });
  }

  protected async apply(events: readonly OutboxEvent[], checkpoint: Checkpoint): Promise<void> {
    const left = [...Map.groupBy(events, (it) => it.tenant)];
    const tell = async (): Promise<void> => {
      for (let next = left.shift(); next; next = left.shift()) {
        const [tenant, group] = next;
        for (const part of partsOf(group.flatMap(effectsOf))) await this.settle(tenant, part);
      }
    };
    const telling = Array.from({ length: tenantsAtOnce }, () =>
      tell().catch((error: unknown) => {
        // All are told again, so nobody else has to find out first that inventory is away.
        left.length = 0;
        throw error;
      }),
    );
    // Not before all of them have ended: what is under way must not meet itself.
    const failed = (await Promise.allSettled(telling)).find((it) => it.status === 'rejected');
    if (failed) throw failed.reason as Error;
    await checkpoint.keep();
  }

  /** What cannot be applied is told to the operator and holds up nobody else: its event stays in the outbox. */
  private async settle(tenant: string, effects: readonly StockEffect[]): Promise<void> {
    for (const { reservation_id, version } of await this.stock.settle(tenant, effects))
      this.logger.error(
        `inventory cannot apply version ${version} of the order of reservation ${reservation_id} (tenant ${tenant}): ` +
          'it has fewer units than the order says, or a product does not exist. Count the stock of the products of the order.',
      );
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
