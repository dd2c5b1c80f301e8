import { Injectable } from '@nestjs/common';
import type { StockEffect } from '#contracts';

/** Applies effects to reservations and stock, atomically, each effect once. */
export abstract class StockSettlements {
  /** @returns how many of the effects had not been applied before */
  abstract apply(tenant: string, effects: readonly StockEffect[]): Promise<number>;
}

/** Lets the stock follow what became of orders. */
@Injectable()
export class SettleStock {
  constructor(private readonly settlements: StockSettlements) {}

  async execute(tenant: string, effects: readonly StockEffect[]): Promise<{ applied: number; repeated: number }> {
    const distinct = [...new Map(effects.map((it) => [it.effect_id, it])).values()];
    const applied = await this.settlements.apply(tenant, distinct);
    return { applied, repeated: effects.length - applied };
  }
}
