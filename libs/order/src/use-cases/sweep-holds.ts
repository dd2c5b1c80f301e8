import { Inject, Injectable } from '@nestjs/common';
import type { OverdueHold, StockEffect } from '#contracts';
import { PeriodicWork, throughParts } from '#periodic';
import { StockSettler } from './relay-outbox.js';

/** Holds of which nobody has told inventory in time what became of their orders. */
export abstract class OverdueStock {
  /**
   * @param after leaves out what was overdue already at an earlier look
   * @param part of all that there ever was, from 0, where nothing is left out; there are `parts` of it
   */
  abstract overdue(
    after: Date | null,
    part: number | undefined,
    limit: number,
  ): Promise<{ holds: readonly OverdueHold[]; looked_at: Date; parts?: number | undefined }>;
}

/** Settles for ever whether there is an order. */
export abstract class VoidOrders {
  /**
   * Declares void the orders that are not there: a tombstone takes their place, so that a late Record fails on it.
   * @returns the ids, of those given, that no order will ever have; the others have one
   */
  abstract declareVoid(tenant: string, holds: readonly OverdueHold[]): Promise<ReadonlySet<string>>;
}

/** How often a sweep looks for overdue holds, in milliseconds. */
export const sweepInterval = Symbol('sweep interval');

const batchSize = 500;

/**
 * Decides what becomes of holds whose order was never told of: a process died or was paused between Reserve and Record,
 * or the relay stands still. The order row decides. Where there is one, the hold is confirmed; where there is none, a
 * tombstone is written first and the hold released then, so that no order can come to stand on stock that is gone.
 *
 * Any number of instances may sweep at once: every step can be repeated, by anybody.
 */
@Injectable()
export class SweepHolds extends PeriodicWork {
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
      // Those that were found are settled, so that the same look finds others, until there are none.
      return { ...look, hasMore: holds.length === batchSize };
    }, this.stopping.signal);
    if (at) this.lookedAt = at;
    if (swept.released > 0)
      this.logger.warn(`${swept.released} holds were released: their orders were not recorded in time`);
    return swept;
  }
}
