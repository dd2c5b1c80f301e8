import { Injectable } from '@nestjs/common';
import type { ReplyOf, StockEffect, inventoryContract } from '#contracts';

type Reply = ReplyOf<(typeof inventoryContract)['operations']['settle']>;

/** What identifies an effect. */
export type EffectName = Pick<StockEffect, 'reservation_id' | 'version'>;

/** Applies effects to reservations and stock, atomically, each effect once. */
export abstract class StockSettlements {
  /**
   * @param effects in the order in which to apply them; those of one reservation by version
   * @returns how many were applied now, and those that cannot be applied because the stock does not have their units
   */
  abstract apply(
    tenant: string,
    effects: readonly StockEffect[],
  ): Promise<{ applied: number; impossible: readonly EffectName[] }>;
}

/** Applies the events of orders to the stock: confirms, releases, fulfils and restocks reservations. */
@Injectable()
export class SettleStock {
  constructor(private readonly settlements: StockSettlements) {}

  async execute(tenant: string, effects: readonly StockEffect[]): Promise<Reply> {
    const { applied, impossible } = await this.settlements.apply(tenant, effects);
    return { applied, repeated: effects.length - applied - impossible.length, impossible: [...impossible] };
  }
}
