import { Logger } from '@nestjs/common';
import { CleaveError, inOtherInventory, type StockEffect, type inventoryContract } from '#contracts';
import type { Condition } from '#health';
import { isNotAnswered, type ContractClient } from '#messaging';
import { within, type NoAnswer } from '#periodic';
import type { StockBranches } from '../use-cases/finish-branches.js';
import type { StockSettler } from '../use-cases/relay-outbox.js';
import type { StockHolder } from '../use-cases/reserve-and-record.js';
import type { OverdueStock } from '../use-cases/sweep-holds.js';

/** Shorter than the timeout of a readiness check. */
const askedWithinMs = 500;
/** How long an inventory of an older version, which has no `join`, is not asked again. */
const askAgainMs = 10_000;

/** For operators, with the names of both databases, which callers need not know. */
class WrongDatabase extends Error {}

const wrongDatabase = (detail: string, which: string): CleaveError =>
  new CleaveError('unavailable', detail, {}, { cause: new WrongDatabase(`${detail} ${which}`) });

/** Whether inventory may have been replaced meanwhile; an inventory that is too busy to answer was reached. */
const wasAway = (error: unknown): boolean =>
  error instanceof CleaveError && error.code === 'unavailable' && error.extensions['retry_after_ms'] === undefined;

/** Stock in the inventory module, wherever that runs. */
export class MessagingStock implements StockHolder, StockSettler, StockBranches, OverdueStock {
  private readonly logger = new Logger(MessagingStock.name);
  private isJoined = false;
  private inventoryId: string | undefined;
  private joining: Promise<void> | undefined;
  private askAgainAt = Number.NEGATIVE_INFINITY;

  /**
   * @param holdMs how long a hold waits for its order before it is overdue
   * @param ordersId identifies the database of these orders
   * @param keepFirst stores the database of inventory in which the first stock was held, and returns the one that is stored
   */
  constructor(
    private readonly inventory: ContractClient<typeof inventoryContract>,
    private readonly holdMs: number,
    private readonly ordersId: string,
    private readonly keepFirst: (inventoryId: string) => Promise<string>,
  ) {}

  async reserve(
    tenant: string,
    reservations: Parameters<StockHolder['reserve']>[1],
    branchId?: string,
  ): ReturnType<StockHolder['reserve']> {
    const reply = await this.joined(() => {
      const request = {
        ...{ inventory_id: this.inventoryId, reservations: [...reservations] },
        ...{ hold_ms: this.holdMs, knows_locked: true },
      };
      return branchId === undefined
        ? this.inventory.call('reserve', request, { metadata: { tenant } })
        : this.inventory.call('prepare', { ...request, branch_id: branchId }, { metadata: { tenant } });
    });
    const decided = reply.decisions.length;
    // Decisions are matched to reservations by their position alone.
    if (decided !== reservations.length)
      throw new Error(`inventory was asked for ${reservations.length} reservations and returned ${decided} decisions`);
    return reply;
  }

  async finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void> {
    await this.inventory.call('finish', { branch_id: branchId, outcome });
  }

  async inDoubt(): ReturnType<StockBranches['inDoubt']> {
    return (await this.joined(() => this.inventory.call('in_doubt', {}))).branches;
  }

  async settle(tenant: string, effects: readonly StockEffect[]): ReturnType<StockSettler['settle']> {
    const { impossible } = await this.joined(() => {
      const request = { inventory_id: this.inventoryId, effects: [...effects] };
      return this.inventory.call('settle', request, { metadata: { tenant } });
    });
    return impossible;
  }

  /** No answer depends on it, so a failure is only logged for the operator. */
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
    return this.joined(() => this.inventory.call('overdue', { after, part, limit }));
  }

  /**
   * Whether inventory serves these orders now; it may have become unreachable since it first did. While it cannot be asked,
   * requests that need no stock are still answered.
   *
   * @throws Error that names both databases, if inventory serves other orders, or is not the one that holds their stock
   */
  async condition(): Promise<Condition> {
    const joined = this.askUnlessInVain().then(
      () => undefined,
      // An inventory that is too busy to answer is reachable.
      (error: CleaveError) => (error.extensions?.['retry_after_ms'] === undefined ? error : undefined),
    );
    const obstacle = await within(askedWithinMs, joined).catch((late: NoAnswer) => late);
    if (obstacle instanceof CleaveError && obstacle.cause instanceof WrongDatabase) throw obstacle.cause;
    return { isDegraded: obstacle !== undefined, details: obstacle ? { inventory: 'is unavailable' } : {} };
  }

  /**
   * Joins before the first call: afterwards inventory refuses any other database of orders, unless an operator changes that.
   * And again after inventory was away: it may have come back on another database.
   */
  private async joined<Reply>(call: () => Promise<Reply>): Promise<Reply> {
    if (!this.isJoined) await this.askUnlessInVain();
    try {
      return await call();
    } catch (error) {
      if (wasAway(error)) this.isJoined = false;
      throw error;
    }
  }

  private async askUnlessInVain(): Promise<void> {
    if (performance.now() < this.askAgainAt) return;
    await (this.joining ??= this.askToJoin().finally(() => (this.joining = undefined)));
  }

  private async askToJoin(): Promise<void> {
    try {
      const { inventory_id } = await this.inventory.call('join', { orders_id: this.ordersId });
      await this.recognise(inventory_id);
      this.isJoined = true;
    } catch (error) {
      // An older version without `join` has served these orders so far.
      if (isNotAnswered(error)) {
        this.askAgainAt = performance.now() + askAgainMs;
        return;
      }
      const { serves } = (error as CleaveError).extensions ?? {};
      if (serves === undefined) throw error;
      this.isJoined = false;
      const which = `It serves order database ${String(serves)}; this one is ${this.ordersId}.`;
      throw wrongDatabase((error as CleaveError).detail, which);
    }
  }

  /**
   * An empty database would accept these orders too, and effects on stock that it does not have would count as delivered.
   *
   * @param inventoryId undefined in the reply of an older version
   */
  private async recognise(inventoryId: string | undefined): Promise<void> {
    if (inventoryId === undefined || inventoryId === this.inventoryId) return;
    this.isJoined = false;
    const kept = await this.keepFirst(inventoryId);
    if (kept !== inventoryId) {
      throw wrongDatabase(inOtherInventory, `This is inventory database ${inventoryId}; that one is ${kept}.`);
    }
    this.inventoryId = inventoryId;
  }
}
