import { Injectable } from '@nestjs/common';
import type { ReplyOf, StockEffect, inventoryContract } from '#contracts';
import { LockTimeout, othersLock } from './reserve-stock.js';

type Reply = ReplyOf<(typeof inventoryContract)['operations']['settle']>;

/** What identifies an effect. */
export type EffectName = Pick<StockEffect, 'reservation_id' | 'version'>;

/** Applies effects to reservations and stock, atomically, each effect once. */
export abstract class StockSettlements {
  /**
   * @param effects in the order in which to apply them; those of one reservation by version
   * @returns how many were applied now, and those that cannot be applied because the stock does not have their units
   * @throws LockTimeout
   */
  abstract apply(
    tenant: string,
    effects: readonly StockEffect[],
  ): Promise<{ applied: number; impossible: readonly EffectName[] }>;
  /** Those of the products of the effects that somebody keeps locked. Waits for none of them. */
  abstract lockedFor(tenant: string, effects: readonly StockEffect[]): Promise<readonly string[]>;
}

/**
 * Applies the events of orders to the stock: confirms, releases, fulfils and restocks reservations.
 *
 * Effects are applied in order, so they are repeated until they get their locks. While they wait for one, they hold others
 * that new orders need. So once they have waited in vain, they wait again only if nobody is found to keep a product locked.
 */
@Injectable()
export class SettleStock {
  /** Tenants whose last effects have waited in vain. */
  private readonly heldUp = new Set<string>();

  constructor(private readonly settlements: StockSettlements) {}

  async execute(tenant: string, effects: readonly StockEffect[]): Promise<Reply> {
    const locked = this.heldUp.has(tenant) ? await this.settlements.lockedFor(tenant, effects) : [];
    if (locked.length > 0) throw othersLock(new Set(locked));
    const { applied, impossible } = await this.apply(tenant, effects);
    return { applied, repeated: effects.length - applied - impossible.length, impossible: [...impossible] };
  }
  private async apply(...given: Parameters<StockSettlements['apply']>): ReturnType<StockSettlements['apply']> {
    const [tenant] = given;
    try {
      const settled = await this.settlements.apply(...given);
      this.heldUp.delete(tenant);
      return settled;
    } catch (error) {
      if (error instanceof LockTimeout) this.heldUp.add(tenant);
      throw error;
    }
  }
}
