import { Injectable } from '@nestjs/common';
import type { ReplyOf, StockEffect, inventoryContract } from '#contracts';
import { LockTimeout, othersLock, suspectedMs } from './reserve-stock.js';

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
 * that new orders need. So once some have waited in vain, those of their tenant wait only if nobody is found to keep a product
 * locked, as long as such a product is suspected to be locked still.
 */
@Injectable()
export class SettleStock {
  /** Until when products are suspected to be locked, by tenant. Effects that need none of them say nothing about that. */
  private readonly suspects = new Map<string, number>();

  constructor(private readonly settlements: StockSettlements) {}

  async execute(tenant: string, effects: readonly StockEffect[]): Promise<Reply> {
    const locked = this.suspectsIn(tenant) ? await this.settlements.lockedFor(tenant, effects) : [];
    if (locked.length > 0) {
      this.suspect(tenant);
      throw othersLock(new Set(locked));
    }
    try {
      const { applied, impossible } = await this.settlements.apply(tenant, effects);
      return { applied, repeated: effects.length - applied - impossible.length, impossible: [...impossible] };
    } catch (error) {
      if (error instanceof LockTimeout) this.suspect(tenant);
      throw error;
    }
  }

  private suspect(tenant: string): void {
    this.suspects.set(tenant, performance.now() + suspectedMs);
  }

  private suspectsIn(tenant: string): boolean {
    const isSuspected = performance.now() < (this.suspects.get(tenant) ?? Number.NEGATIVE_INFINITY);
    if (!isSuspected) this.suspects.delete(tenant);
    return isSuspected;
  }
}
