import { Inject, Injectable } from '@nestjs/common';
import type { OverdueHold, StockEffect } from '#contracts';
import { PeriodicJob, throughParts } from '#periodic';
import { StockSettler } from './relay-outbox.js';

/** Holds for which inventory was not told in time what became of their orders. */
export abstract class OverdueStock {
  /**
   * @param after leaves out holds that were overdue at that earlier look already; null for all holds
   * @param part without `after`, which of the `parts` of all holds to look at, counted from 0
   */
  abstract overdue(
    after: Date | null,
    part: number | undefined,
    limit: number,
  ): Promise<{ holds: readonly OverdueHold[]; looked_at: Date; parts?: number | undefined }>;
}

/** A hold for an order, whether or not the order is recorded. */
export type HeldFor = Pick<OverdueHold, 'order_id' | 'reservation_id'>;

/** Decides for good whether an order exists. */
export abstract class VoidOrders {
  /**
   * Declares void the ids that have no order, after waiting for any transaction that is recording one: a tombstone takes the
   * place of the order, so that a late Record fails on it.
   * @returns the given ids that no order will ever have; the others have an order
   */
  abstract declareVoid(tenant: string, holds: readonly HeldFor[]): Promise<ReadonlySet<string>>;
}

/** How often a sweep looks for overdue holds, in milliseconds. */
export const sweepInterval = Symbol('sweep interval');

const batchSize = 500;

/**
 * Decides what becomes of holds for which inventory never heard of an order: a process died or was paused between Reserve
 * and Record, or the relay stands still. The order row decides. If there is one, the hold is confirmed; if not, a tombstone
 * is written first and then the hold released, so that no order can rely on stock that is gone.
 *
 * Any number of instances may sweep at once: every step is idempotent and may be done by anyone.
 */
@Injectable()
export class SweepHolds extends PeriodicJob {
  /** The first sweep looks at everything, part by part; later ones at what has become overdue since. */
  private lookedAt: Date | null = null;

  constructor(
    private readonly stock: OverdueStock,
    private readonly orders: VoidOrders,
    private readonly settler: StockSettler,
    @Inject(sweepInterval) everyMs: number,
  ) {
    super(everyMs, 'overdue holds could not be settled: the sweep failed, trying again');
  }

  /** Sweeps once. @returns how many holds were released and how many confirmed */
  async execute(): Promise<{ released: number; confirmed: number }> {
    const swept = { released: 0, confirmed: 0 };
    const found = new Set<string>();
    const after = this.lookedAt;
    const at = await throughParts(async (part) => {
      const { holds, ...look } = await this.stock.overdue(after, after === null ? part : undefined, batchSize);
      const foundBefore = found.size;
      for (const it of holds) found.add(it.reservation_id);
      if (holds.length > 0 && found.size === foundBefore)
        throw new Error(
          `inventory still reports ${holds.length} settled holds as overdue, ${holds[0]!.reservation_id} among them`,
        );
      for (const [tenant, group] of Map.groupBy(holds, (it) => it.tenant_id)) {
        const declaredVoid = await this.orders.declareVoid(tenant, group);
        const effects = group.map(({ reservation_id, order_id }): StockEffect => ({
          reservation_id,
          version: 1,
          kind: declaredVoid.has(order_id) ? 'release' : 'confirm',
        }));
        await this.settler.settle(tenant, effects);
        swept.released += declaredVoid.size;
        swept.confirmed += group.length - declaredVoid.size;
      }
      // The holds that were found are settled, so the same query finds others, until there are none.
      return { ...look, hasMore: holds.length === batchSize };
    }, this.stopping.signal);
    if (at) this.lookedAt = at;
    if (swept.released > 0)
      this.logger.warn(`${swept.released} holds were released: their orders were not recorded in time`);
    return swept;
  }
}
