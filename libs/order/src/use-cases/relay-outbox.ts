import { Injectable } from '@nestjs/common';
import { mapConcurrently } from '#admission';
import type { StockEffect } from '#contracts';
import { Checkpoints, EventConsumer, EventSource, type Checkpoint, type LogEntry } from '#events';
import { stockEffectOf, type HistoryEntry } from '../domain/order.js';

/** An event of an order, as the relay needs it. */
export interface OutboxEvent extends LogEntry, Pick<HistoryEntry, 'type' | 'status' | 'data' | 'version'> {
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
/** Lines in one call; an effect with more lines gets a call of its own. */
const linesAtOnce = 5_000;
/**
 * Each tenant of a batch needs a call of its own. One after another, a batch of many tenants would take too long; more than
 * this in parallel would take too many connections of inventory, as other instances call it as well.
 */
const tenantsAtOnce = 2;
/** Also the delay of events of other instances whose part is read here. */
const pollMs = 100;
/** Events that arrive within this time go in one delivery, as ten cost no more than one. */
const paceMs = 50;

/** Delivers the events of orders to inventory, so that the stock follows: in order, at least once, applied once. */
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
    const ofTenants = [...Map.groupBy(events, (it) => it.tenant)];
    await mapConcurrently(ofTenants, tenantsAtOnce, async ([tenant, group]) => {
      for (const part of partsOf(group.flatMap(effectsOf))) await this.settle(tenant, part);
    });
    await checkpoint.keep();
  }

  /** Reports effects that cannot be applied to the operator; they hold up no others, and their events stay in the outbox. */
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
