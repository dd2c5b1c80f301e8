import { Injectable } from '@nestjs/common';
import type { ReplyOf, StockEffect, inventoryContract } from '#contracts';

type Reply = ReplyOf<(typeof inventoryContract)['operations']['settle']>;

/** Applies effects to reservations and stock, atomically, each effect once. */
export abstract class StockSettlements {
  /** @returns how many were applied now, and the ids of those that cannot be: the stock knows nothing of their units */
  abstract apply(
    tenant: string,
    effects: readonly StockEffect[],
  ): Promise<{ applied: number; impossible: readonly string[] }>;
}

/** Lets the stock follow what became of orders. */
@Injectable()
export class SettleStock {
  constructor(private readonly settlements: StockSettlements) {}

  async execute(tenant: string, effects: readonly StockEffect[]): Promise<Reply> {
    const distinct = [...new Map(effects.map((it) => [it.effect_id, it])).values()];
    const { applied, impossible } = await this.settlements.apply(tenant, distinct);
    return { applied, repeated: effects.length - applied - impossible.length, impossible: [...impossible] };
  }
}
