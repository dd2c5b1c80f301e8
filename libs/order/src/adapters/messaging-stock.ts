import { setTimeout } from 'node:timers/promises';
import { Injectable, Logger } from '@nestjs/common';
import { CleaveError, type StockEffect, type inventoryContract } from '#contracts';
import type { Condition } from '#health';
import { isNotAnswered, type ContractClient } from '#messaging';
import type { StockBranches } from '../use-cases/finish-branches.js';
import type { StockSettler } from '../use-cases/relay-outbox.js';
import type { StockHolder } from '../use-cases/reserve-and-record.js';
import type { OverdueStock } from '../use-cases/sweep-holds.js';

/** Less than a check of readiness may take. */
const askedWithinMs = 500;
/** When an inventory that could not be joined is asked whether it can by now. */
const askAgainMs = 10_000;

/** What an operator is told; callers need not know the names of databases. */
class ServesOthers extends Error {
  constructor(detail: string, serves: string, ordersId: string) {
    super(`${detail} It serves order database ${serves}; this one is ${ordersId}.`);
  }
}

/** Stock in the inventory module, wherever that runs. */
@Injectable()
export class MessagingStock implements StockHolder, StockSettler, StockBranches, OverdueStock {
  private readonly logger = new Logger(MessagingStock.name);
  private isJoined = false;
  private joining: Promise<void> | undefined;
  private askAgainAt = Number.NEGATIVE_INFINITY;

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
    const reply =
      branchId === undefined
        ? await this.inventory.call('reserve', request, { metadata: { tenant } })
        : await this.inventory.call('prepare', { ...request, branch_id: branchId }, { metadata: { tenant } });
    const decided = reply.decisions.length;
    // Which decision is whose is told by their order alone.
    if (decided !== reservations.length)
      throw new Error(`inventory was asked for ${reservations.length} reservations and returned ${decided} decisions`);
    return reply;
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
        this.logger.warn(
          `could not release reservation ${reservationId}; a sweep releases it once it is overdue (${String(error)})`,
        );
      },
    );
  }

  async overdue(...[after, part, limit]: Parameters<OverdueStock['overdue']>): ReturnType<OverdueStock['overdue']> {
    await this.join();
    return this.inventory.call('overdue', { after, part, limit });
  }

  /**
   * Whether inventory serves these orders, also where it did before: it may be out of reach by now. Where it cannot be asked,
   * what needs no stock goes on.
   *
   * @throws Error that names both databases of orders, where it serves another one
   */
  async condition(): Promise<Condition> {
    const ended = new AbortController();
    const late = setTimeout(askedWithinMs, 'late' as const, { signal: ended.signal }).catch(() => 'late' as const);
    const joined = this.askUnlessInVain().then(
      () => undefined,
      // What is too busy to answer can be reached.
      (error: CleaveError) => (error.extensions?.['retry_after_ms'] === undefined ? error : undefined),
    );
    const obstacle = await Promise.race([joined, late]);
    ended.abort();
    if (obstacle instanceof CleaveError && obstacle.cause instanceof ServesOthers) throw obstacle.cause;
    return { isDegraded: obstacle !== undefined, details: obstacle ? { inventory: 'is unavailable' } : {} };
  }

  /** Once is enough, as inventory serves nobody else afterwards, unless it is told to. */
  private async join(): Promise<void> {
    if (!this.isJoined) await this.askUnlessInVain();
  }

  private async askUnlessInVain(): Promise<void> {
    if (performance.now() < this.askAgainAt) return;
    await (this.joining ??= this.askToJoin().finally(() => (this.joining = undefined)));
  }

  private async askToJoin(): Promise<void> {
    try {
      await this.inventory.call('join', { orders_id: this.ordersId });
      this.isJoined = true;
    } catch (error) {
      // One of a version that does not know yet that there can be others has served these orders so far.
      if (isNotAnswered(error)) {
        this.askAgainAt = performance.now() + askAgainMs;
        return;
      }
      const { serves } = (error as CleaveError).extensions ?? {};
      if (serves === undefined) throw error;
      this.isJoined = false;
      const { detail } = error as CleaveError;
      throw new CleaveError(
        'unavailable',
        detail,
        {},
        { cause: new ServesOthers(detail, String(serves), this.ordersId) },
      );
    }
  }
}
