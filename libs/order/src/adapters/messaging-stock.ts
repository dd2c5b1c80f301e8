import { Injectable, Logger } from '@nestjs/common';
import type { StockEffect, inventoryContract } from '#contracts';
import type { ContractClient } from '#messaging';
import type { StockHolder } from '../use-cases/place-order.js';
import type { StockSettler } from '../use-cases/relay-outbox.js';

/** Stock in the inventory module, wherever that runs. */
@Injectable()
export class MessagingStock implements StockHolder, StockSettler {
  private readonly logger = new Logger(MessagingStock.name);

  constructor(private readonly inventory: ContractClient<typeof inventoryContract>) {}

  reserve(tenant: string, reservations: Parameters<StockHolder['reserve']>[1]): ReturnType<StockHolder['reserve']> {
    return this.inventory.call('reserve', { reservations: [...reservations] }, { metadata: { tenant } });
  }

  async settle(tenant: string, effects: readonly StockEffect[]): Promise<readonly string[]> {
    const { impossible } = await this.inventory.call('settle', { effects: [...effects] }, { metadata: { tenant } });
    return impossible;
  }

  /** The caller has its answer already, so a failure is the operator's to know, not the caller's. */
  async release(tenant: string, reservationId: string): Promise<void> {
    const effect = { effect_id: `unclaimed:${reservationId}`, reservation_id: reservationId, kind: 'release' as const };
    await this.settle(tenant, [{ ...effect, lines: [] }]).catch((error: unknown) => {
      this.logger.warn(`reservation ${reservationId} stays held until its deadline (${String(error)})`);
    });
  }
}
