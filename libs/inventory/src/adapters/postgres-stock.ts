import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { CleaveError, limits, type Decision, type OverdueHold, type Stock, type StockEffect } from '#contracts';
import { arrayOf, InjectSql, Sql, firstSetting, isLockTimeout, type Queries, type Statement } from '#database';
import type { ReservationBatch } from '../domain/reservation-batch.js';
import type { AdjustmentOutcome, StockAdjustment, StockAdjustments } from '../use-cases/adjust-stock.js';
import type { CountOutcome, StockCount, StockCounts } from '../use-cases/count-stock.js';
import type { OverdueHolds } from '../use-cases/find-overdue-holds.js';
import type { PreparedBranches } from '../use-cases/finish-branches.js';
import type { StockList } from '../use-cases/list-stock.js';
import type { OrdersServed } from '../use-cases/join-orders.js';
import type { StockLevels } from '../use-cases/read-stock.js';
import type { RefusedReservations } from '../use-cases/purge-refusals.js';
import { LockTimeout, type StockReservations } from '../use-cases/reserve-stock.js';
import type { EffectName, StockSettlements } from '../use-cases/settle-stock.js';

type StockRow = Omit<Stock, 'available'>;

const stockOf = ({ product_id, on_hand, reserved, sold }: StockRow): Stock => ({
  product_id,
  on_hand,
  reserved,
  available: on_hand - reserved,
  sold,
});

/** Units by product. */
const unitsOf = (lines: StockEffect['lines']): Record<string, number> => {
  const units = new Map<string, number>();
  for (const line of lines ?? []) units.set(line.product_id, (units.get(line.product_id) ?? 0) + line.quantity);
  return Object.fromEntries(units);
};

const throwLockTimeout = (error: unknown): never => {
  throw isLockTimeout(error) ? new LockTimeout(error as CleaveError) : error;
};

/** What the database decides. */
type Outcome = Exclude<Decision['outcome'], 'locked'>;

const decisionOf = (outcome: Outcome, detail: unknown, orderId: string | null): Decision => {
  const earlier = orderId === null ? {} : { order_id: orderId };
  switch (outcome) {
    case 'held':
      return { outcome, order_id: orderId! };
    case 'released':
      return { outcome, order_id: orderId };
    case 'out-of-stock':
      return { outcome, shortages: detail as never };
    case 'unknown-product':
      return { outcome, product_ids: detail as string[], ...earlier };
    case 'currency-mismatch':
      return { outcome, currencies: detail as string[], ...earlier };
    case 'total-outside':
      return { outcome, items_total_minor: detail as number | null, ...earlier };
  }
};

/** Refusals that are not stored: the next try may be decided otherwise. */
const refusedUnkept = new Set<Decision['outcome']>(['unknown-product', 'currency-mismatch', 'total-outside']);

/** Stock in Postgres: every change is one call of a function of the `inventory` schema. */
@Injectable()
export class PostgresStock
  implements
    StockReservations,
    StockSettlements,
    OrdersServed,
    OverdueHolds,
    PreparedBranches,
    RefusedReservations,
    StockCounts,
    StockAdjustments,
    StockLevels,
    StockList
{
  /** Whether to try to hold the next batch at once: only after one that was held as a whole, because a try that fails costs. */
  private holdsAtOnce = true;

  constructor(@InjectSql('inventory') private readonly sql: Sql) {}

  keepFirst(ordersId: string): Promise<string> {
    return firstSetting(this.sql, 'inventory', 'orders_id', ordersId);
  }

  ownId(): Promise<string> {
    return firstSetting(this.sql, 'inventory', 'id', randomUUID());
  }

  decide(...given: Parameters<StockReservations['decide']>): ReturnType<StockReservations['decide']> {
    return this.decideOrPrepare(...given).catch(throwLockTimeout);
  }

  locked(...[tenant, ids]: Parameters<StockReservations['locked']>): ReturnType<StockReservations['locked']> {
    return this.lockedBy(lockedRows, [tenant, ids.products, ids.reservations]);
  }

  async lockedFor(
    ...[tenant, effects]: Parameters<StockSettlements['lockedFor']>
  ): ReturnType<StockSettlements['lockedFor']> {
    const ids = effects.map((it) => it.reservation_id);
    const named = effects.flatMap((it) => Object.keys(unitsOf(it.lines)));
    return (await this.lockedBy(lockedOfEffects, [tenant, ids, named])).products;
  }

  private async lockedBy(statement: Statement, values: readonly unknown[]): ReturnType<StockReservations['locked']> {
    try {
      const [row] = await this.sql.query<{ products: string[]; reservations: string[] }>(statement, values);
      return row!;
    } catch (error) {
      // A whole table is locked.
      if (isLockTimeout(error)) return { products: [], reservations: [] };
      throw error;
    }
  }

  private async decideOrPrepare(
    tenant: string,
    batch: ReservationBatch,
    holdMs: number,
    branchId?: string,
  ): ReturnType<StockReservations['decide']> {
    if (branchId === undefined)
      return this.sql.readSafely(
        (sql) => this.decideBy(sql, tenant, batch, holdMs),
        // A refusal that depends on reads alone commits nothing, so no commit has waited for the standby.
        ({ decisions }) => decisions.some(({ outcome }) => refusedUnkept.has(outcome)),
      );
    try {
      return await this.sql.prepare(gidOf(branchId), (within) =>
        // Not `hold`, which locks in a subtransaction: nothing tells afterwards to which prepared transaction that belongs.
        this.decideBy(within, tenant, batch, holdMs, reserve),
      );
    } catch (error) {
      const detail = whyNotPrepared(error);
      if (detail === undefined) throw error;
      throw new CleaveError('unavailable', detail, {}, { cause: error });
    }
  }

  async finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void> {
    await this.sql.finishPrepared(gidOf(branchId), outcome);
  }

  inDoubt(): ReturnType<PreparedBranches['inDoubt']> {
    return this.sql.query(inDoubt, [gidPrefix]);
  }

  private async decideBy(
    sql: Queries,
    tenant: string,
    batch: ReservationBatch,
    holdMs: number,
    statement = this.holdsAtOnce ? hold : reserve,
  ): ReturnType<StockReservations['decide']> {
    const [row] = await sql.query<{
      /** Null if everything is held, for the orders of the batch. */
      outcomes: Outcome[] | null;
      details: unknown[];
      orders: (string | null)[];
      names: (string | null)[];
      prices: number[];
      currencies: string[];
    }>(statement, [
      tenant,
      arrayOf.uuid(batch.reservationIds),
      arrayOf.uuid(batch.orderIds),
      arrayOf.jsonb(batch.held.map((it) => JSON.stringify(it))),
      holdMs,
      arrayOf.text(batch.productIds),
      arrayOf.bigint(batch.wanted),
      arrayOf.int(batch.lines.map((it) => it.reservation)),
      arrayOf.int(batch.lines.map((it) => it.product)),
      arrayOf.bigint(batch.lines.map((it) => it.quantity)),
      arrayOf.bigint(batch.lines.map((it) => it.catalogueQuantity)),
      arrayOf.bigint(batch.ownPricedMinor),
      arrayOf.bigint(batch.atLeast),
      arrayOf.bigint(batch.atMost),
    ]);
    if (!row) throw new Error('inventory.reserve returned no row');
    const { outcomes, details, orders } = row;
    this.holdsAtOnce =
      !outcomes || outcomes.every((outcome, index) => outcome === 'held' && orders[index] === batch.orderIds[index]);
    return {
      decisions: batch.orderIds.map((orderId, index) =>
        outcomes
          ? decisionOf(outcomes[index]!, details[index], orders[index]!)
          : { outcome: 'held', order_id: orderId },
      ),
      products: batch.productIds.flatMap((product_id, index) => {
        const name = row.names[index];
        if (name === null || name === undefined) return [];
        return [{ product_id, name, unit_price_minor: row.prices[index]!, currency: row.currencies[index]! }];
      }),
    };
  }

  async apply(tenant: string, effects: readonly StockEffect[]): ReturnType<StockSettlements['apply']> {
    const values = [
      tenant,
      arrayOf.uuid(effects.map((it) => it.reservation_id)),
      arrayOf.int(effects.map((it) => it.version)),
      arrayOf.text(effects.map((it) => it.kind)),
      arrayOf.jsonb(effects.map((it) => JSON.stringify(unitsOf(it.lines)))),
    ];
    const settling = this.sql.readSafely(
      (sql) => sql.query<{ applied: number; impossible: EffectName[] }>(settle, values),
      // If nothing was left to apply, no commit has waited until the earlier effects were replicated.
      ([settled]) => settled!.applied === 0,
    );
    const [row] = await settling.catch(throwLockTimeout);
    return row!;
  }

  async find({ after, part, limit }: Parameters<OverdueHolds['find']>[0]): ReturnType<OverdueHolds['find']> {
    // Read safely, because a server that has become a standby does not know what runs on the new primary.
    return this.sql.readSafely(async (sql) => {
      const { looked_at, parts } = await lookBy(sql);
      if (part === undefined) return { holds: await sql.query<OverdueHold>(overdue, [after, limit]), looked_at };
      return { holds: await sql.query<OverdueHold>(overdueIn, [...placesOf(part), limit]), looked_at, parts };
    });
  }

  async forget(
    ageMs: number,
    { after, part }: Parameters<RefusedReservations['forget']>[1],
    limit: number,
  ): ReturnType<RefusedReservations['forget']> {
    return this.sql.readSafely(async (sql) => {
      const { looked_at, parts } = await lookBy(sql);
      const [row] = await (after === null
        ? sql.query<{ forgotten: number }>(forgetRefusedIn, [...placesOf(part), ageMs, limit])
        : sql.query<{ forgotten: number }>(forgetRefused, [after, ageMs, limit]));
      return { ...row!, looked_at, parts: after === null ? parts : 1 };
    });
  }

  async count(tenant: string, counts: readonly StockCount[]): Promise<CountOutcome> {
    const [row] = await this.sql.query<{
      unknown: string[];
      below: { product_id: string; on_hand: number; reserved: number }[] | null;
      stock: StockRow[];
    }>(countStock, [tenant, counts.map((it) => it.product_id), counts.map((it) => it.on_hand)]);
    if (row!.unknown.length > 0) return { outcome: 'unknown', productIds: row!.unknown };
    if (row!.below) return { outcome: 'below-reserved', below: row!.below };
    return { outcome: 'counted', stock: row!.stock.map(stockOf) };
  }

  async adjust(tenant: string, adjustment: StockAdjustment): Promise<AdjustmentOutcome> {
    const { account, idempotencyKey, productId, delta, reason } = adjustment;
    const [row] = await this.sql.query<{ outcome: AdjustmentOutcome['outcome']; stock: StockRow | null }>(adjustStock, [
      tenant,
      account,
      idempotencyKey,
      productId,
      delta,
      reason,
      limits.onHand,
    ]);
    return { outcome: row!.outcome, ...(row!.stock && { stock: stockOf(row!.stock) }) } as AdjustmentOutcome;
  }

  async of(tenant: string, productId: string): Promise<Stock | undefined> {
    const [row] = await this.sql.query<StockRow>(read, [tenant, productId]);
    return row && stockOf(row);
  }

  async page(tenant: string, after: string | undefined, limit: number): Promise<Stock[]> {
    // No id is empty, so all are after the empty one.
    return (await this.sql.query<StockRow>(readPage, [tenant, after ?? '', limit])).map(stockOf);
  }
}

/** Others may prepare transactions on the same server: those with other names, or of other databases, are not ours. */
const gidPrefix = 'cleave:';
const gidOf = (branchId: string): string => `${gidPrefix}${branchId}`;
const preparingIsOff = '55000';

/** Undefined for other errors. Too many prepared transactions have the error code of a lack of memory, hence the routine. */
const whyNotPrepared = (error: unknown): string | undefined => {
  const { code, cause } = error as { code?: string; cause?: { routine?: string } };
  if (code === preparingIsOff)
    return 'Prepared transactions are disabled in the inventory database. Set max_prepared_transactions there, or ORDER_COMMIT=flexible.';
  return cause?.routine === 'MarkAsPreparing'
    ? 'The inventory database has reached its limit of prepared transactions. Try again in a moment; if this persists, raise max_prepared_transactions there.'
    : undefined;
};

const inDoubt = {
  name: 'inventory-in-doubt',
  text: `
    SELECT substr(gid, length($1) + 1) AS branch_id, extract(epoch FROM now() - prepared)::float8 * 1000 AS age_ms
    FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, $1) ORDER BY prepared LIMIT 1000`,
};

const reserving = '($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)';
const reserve = { name: 'inventory-reserve', text: `SELECT * FROM inventory.reserve${reserving}` };
const hold = { name: 'inventory-reserve at-once', text: `SELECT * FROM inventory.hold${reserving}` };
const lockedRows = { name: 'inventory-locked-rows', text: 'SELECT * FROM inventory.locked_rows($1, $2, $3)' };
const lockedOfEffects = {
  name: 'inventory-locked-of-effects',
  text: `
    SELECT l.* FROM inventory.locked_rows($1, ARRAY(
      SELECT jsonb_object_keys(held) FROM inventory.reservations WHERE tenant_id = $1 AND reservation_id = ANY ($2::uuid[])
      UNION SELECT unnest($3::text[])
    ), '{}') l`,
};
const settle = { name: 'inventory-settle', text: 'SELECT * FROM inventory.settle($1, $2, $3, $4, $5)' };

/**
 * A transaction may become visible long after it began: it may be prepared, or wait for a standby, which no timeout ends. So
 * the time of the oldest one counts. It is read before the search, so that what ends in between is found.
 */
const lookBy = async (sql: Queries): Promise<Look> => (await sql.query<Look>(look))[0]!;

interface Look {
  looked_at: Date;
  parts: number;
}

/** The size of one part: so small that looking at it takes a fraction of the statement timeout. */
const pagesOfPart = 8_192;

const look = {
  name: 'inventory-look',
  text: `
    SELECT least(now(),
      (SELECT min(xact_start) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()),
      (SELECT min(prepared) FROM pg_prepared_xacts WHERE database = current_database())) AS looked_at,
      ceil(pg_relation_size('inventory.reservations')
        / (${pagesOfPart} * current_setting('block_size')::numeric))::int AS parts`,
};

/**
 * The range of row positions (ctid) of a part. A row that is settled meanwhile may move, but does not matter any more then;
 * a row that is added is neither overdue nor old.
 */
const placesOf = (part: number): [from: string, to: string] => [
  `(${part * pagesOfPart},0)`,
  `(${(part + 1) * pagesOfPart},0)`,
];

/** `IS TRUE` keeps every plan from using an index on the time, by which it would read all rows there ever were. */
const lyingWithin = (condition: string): string => `ctid >= $1::tid AND ctid < $2::tid AND (${condition}) IS TRUE`;

const overdueColumns = `SELECT tenant_id, reservation_id, order_id FROM inventory.reservations WHERE state = 'held'`;

const overdueIn = {
  name: 'inventory-overdue-part',
  text: `${overdueColumns} AND ${lyingWithin('deadline_at <= now()')} LIMIT $3`,
};

/** The minute covers the time from the begin of a transaction until it shows among those that run or are prepared. */
const overdue = {
  name: 'inventory-overdue',
  text: `
    ${overdueColumns} AND deadline_at <= now()
      AND deadline_at > coalesce($1::timestamptz, '-infinity') - interval '1 minute'
    LIMIT $2`,
};

/** Waits for no lock, so the rows may be locked in any order. */
const forgetting = (condition: string, limit: string): string => `
    WITH old AS (
      SELECT tenant_id, reservation_id FROM inventory.reservations
      WHERE state = 'refused' AND ${condition} LIMIT ${limit} FOR UPDATE SKIP LOCKED
    ), forgotten AS (
      DELETE FROM inventory.reservations r USING old
      WHERE r.tenant_id = old.tenant_id AND r.reservation_id = old.reservation_id
      RETURNING 1
    )
    SELECT count(*) AS forgotten FROM forgotten`;

const forgetRefusedIn = {
  name: 'inventory-forget-refused-part',
  text: forgetting(lyingWithin(`deadline_at <= now() - $3::bigint * interval '1 millisecond'`), '$4'),
};

const forgetRefused = {
  name: 'inventory-forget-refused',
  text: forgetting(
    `deadline_at <= now() - $2::bigint * interval '1 millisecond'
        AND deadline_at > $1::timestamptz - $2::bigint * interval '1 millisecond' - interval '1 minute'`,
    '$3',
  ),
};
const countStock = { name: 'inventory-count', text: 'SELECT * FROM inventory.count_stock($1, $2, $3)' };
const adjustStock = {
  name: 'inventory-adjust',
  text: 'SELECT * FROM inventory.adjust_stock($1, $2, $3, $4, $5, $6, $7)',
};
const read = {
  name: 'inventory-read-stock',
  text: 'SELECT product_id, on_hand, reserved, sold FROM inventory.products WHERE tenant_id = $1 AND product_id = $2',
};
const readPage = {
  name: 'inventory-read-stock-page',
  text: `
    SELECT product_id, on_hand, reserved, sold FROM inventory.products
    WHERE tenant_id = $1 AND product_id > $2 ORDER BY product_id LIMIT $3`,
};
