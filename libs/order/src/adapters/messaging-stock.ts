import { Injectable, Logger } from '@nestjs/common';
import type { StockEffect, inventoryContract } from '#contracts';
import type { ContractClient } from '#messaging';
import type { StockBranches } from '../use-cases/finish-branches.js';
import type { StockSettler } from '../use-cases/relay-outbox.js';
import type { StockHolder } from '../use-cases/reserve-and-record.js';
import type { OverdueStock } from '../use-cases/sweep-holds.js';

/** Stock in the inventory module, wherever that runs. */
@Injectable()
export class MessagingStock implements StockHolder, StockSettler, StockBranches, OverdueStock {
  private readonly logger = new Logger(MessagingStock.name);
  private joined: Promise<unknown> | undefined;

  /**
   * @param holdMs how long a hold waits for its order before it is overdue
   * @param ordersId names the database of these orders
   */
  constructor(
    private readonly inventory: ContractClient<typeof inventoryContract>,
    private readonly holdMs: number,
    private readonly ordersId: string,
  ) {}

  async reserve(
    tenant: string,
    reservations: Parameters<StockHolder['reserve']>[1],
    branchId?: string,
  ): ReturnType<StockHolder['reserve']> {
    await this.join();
    const request = { reservations: [...reservations], hold_ms: this.holdMs };
    if (branchId === undefined) return this.inventory.call('reserve', request, { metadata: { tenant } });
    return this.inventory.call('prepare', { ...request, branch_id: branchId }, { metadata: { tenant } });
  }

  async finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void> {
    await this.inventory.call('finish', { branch_id: branchId, outcome });
  }

  async inDoubt(): ReturnType<StockBranches['inDoubt']> {
    await this.join();
    return (await this.inventory.call('in_doubt', {})).branches;
  }

  async settle(tenant: string, effects: readonly StockEffect[]): ReturnType<StockSettler['settle']> {
    const { impossible } = await this.inventory.call('settle', { effects: [...effects] }, { metadata: { tenant } });
    return impossible;
  }

  /** The caller has its answer already, so a failure is the operator's to know, not the caller's. */
  async release(tenant: string, reservationId: string): Promise<void> {
    await this.settle(tenant, [{ reservation_id: reservationId, version: 1, kind: 'release' }]).catch(
      (error: unknown) => {
        this.logger.warn(`reservation ${reservationId} stays held until it is swept (${String(error)})`);
      },
    );
  }

  async overdue(after: Date | null, limit: number): ReturnType<OverdueStock['overdue']> {
    await this.join();
    return this.inventory.call('overdue', { after, limit });
  }

  /** Once is enough, as inventory never serves anybody else afterwards. */
  private async join(): Promise<void> {
    this.joined ??= this.inventory.call('join', { orders_id: this.ordersId });
    try {
      await this.joined;
    } catch (error) {
      this.joined = undefined;
      throw error;
    }
  }
}
