import { Injectable } from '@nestjs/common';
import type { SalesOfDay, SalesView } from '#contracts';
import { arrayOf, InjectSql, Sql } from '#database';
import { Checkpoints, type Checkpoint } from '#events';
import { consumerOf, type Counted, type Views } from '../use-cases/follow-orders.js';
import type { SalesFilter, SalesKey, SalesReader } from '../use-cases/read-sales.js';
import type { RebuildableViews } from '../use-cases/rebuild-sales.js';

/** Sums are exact in Postgres; those that a number cannot represent exactly are rounded to the nearest one. */
type Sums = Record<Exclude<keyof SalesOfDay, 'day' | 'product_id' | 'currency' | 'sold' | 'sold_minor'>, string>;

/** Sales and their views in Postgres. */
@Injectable()
export class PostgresSales implements Views, SalesReader, RebuildableViews {
  constructor(
    @InjectSql('sales') private readonly sql: Sql,
    private readonly checkpoints: Checkpoints,
  ) {}

  async following(): Promise<number[]> {
    return (await this.sql.query<{ view: number }>(following)).map((it) => it.view);
  }

  async add(view: number, { deltas, events, until }: Counted, checkpoint: Checkpoint): Promise<void> {
    await this.sql.query(add, [
      ...checkpoint.values,
      ...[view, events, until],
      arrayOf.text(deltas.map((it) => it.tenant)),
      deltas.map((it) => it.day),
      arrayOf.text(deltas.map((it) => it.productId)),
      arrayOf.text(deltas.map((it) => it.currency)),
      arrayOf.bigint(deltas.map((it) => it.orders)),
      arrayOf.bigint(deltas.map((it) => it.ordered)),
      arrayOf.bigint(deltas.map((it) => it.cancelled)),
      arrayOf.bigint(deltas.map((it) => it.returned)),
      deltas.map((it) => it.orderedMinor),
      deltas.map((it) => it.cancelledMinor),
      deltas.map((it) => it.returnedMinor),
    ]);
  }

  serveBuilt(): Promise<boolean> {
    return this.sql.transaction(async (tx) => {
      const [caughtUp] = await tx.query<{ built: number; served: number }>(builtAndServed);
      if (!caughtUp) return false;
      const { built, served } = caughtUp;
      const behind = new Map((await this.checkpoints.read(consumerOf(built), tx)).map((it) => [it.part, it.position]));
      const ahead = await this.checkpoints.read(consumerOf(served), tx);
      if (ahead.some(({ part, position }) => (behind.get(part) ?? '') < position)) return false;
      await tx.query(retire, [served]);
      await tx.query(serve, [built]);
      return true;
    });
  }

  async forgetRetired(limit: number): Promise<boolean> {
    // Not in the transaction that serves the new view, because counting locks the checkpoint before the view. What it
    // adds until then is discarded.
    for (const { view } of await this.sql.query<{ view: number }>(retiredAndRead))
      await this.checkpoints.forget(consumerOf(view));
    const [row] = await this.sql.query<{ forgotten: number }>(forgetRetired, [limit]);
    return row!.forgotten === limit;
  }

  async page(
    tenant: string,
    { productId, from, to }: SalesFilter,
    before: SalesKey | undefined,
    limit: number,
  ): Promise<SalesOfDay[]> {
    const values = [
      ...[tenant, from ?? '-infinity', to ?? 'infinity'],
      ...[before?.day ?? 'infinity', before?.product_id ?? '', before?.currency ?? '', limit],
    ];
    type Row = Pick<SalesOfDay, 'day' | 'product_id' | 'currency'> & Sums;
    const rows =
      productId === undefined
        ? await this.sql.query<Row>(page, values)
        : await this.sql.query<Row>(pageOfProduct, [...values, productId]);
    return rows.map(({ day, product_id, currency, ...sums }) => ({
      ...{ day, product_id, currency },
      ...{ orders: Number(sums.orders), ordered: Number(sums.ordered) },
      ...{ cancelled: Number(sums.cancelled), returned: Number(sums.returned) },
      sold: Number(sums.ordered) - Number(sums.cancelled) - Number(sums.returned),
      ...{ ordered_minor: Number(sums.ordered_minor), cancelled_minor: Number(sums.cancelled_minor) },
      returned_minor: Number(sums.returned_minor),
      sold_minor: Number(BigInt(sums.ordered_minor) - BigInt(sums.cancelled_minor) - BigInt(sums.returned_minor)),
    }));
  }

  async sold(tenant: string, productId: string, from: string, to: string): Promise<number> {
    const [row] = await this.sql.query<{ sold: string }>(sold, [tenant, productId, from, to]);
    return Number(row!.sold);
  }

  async begin(): Promise<SalesView> {
    await this.sql.transaction(async (tx) => {
      const [begun] = await tx.query<{ view: number }>(begin);
      if (begun) await this.checkpoints.begin(consumerOf(begun.view), undefined, tx);
    });
    return (await this.all())[0]!;
  }

  async all(): Promise<SalesView[]> {
    const rows = await this.sql.query<Omit<SalesView, 'events'> & { events: string }>(all);
    return rows.map((row) => ({ ...row, events: Number(row.events) }));
  }
}

const following = {
  name: 'sales-following',
  text: `SELECT view FROM sales.views WHERE state <> 'retired' ORDER BY view`,
};

const add = {
  name: 'sales-add',
  text: `
    SELECT sales.add_up($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`,
};

/** Both rows are locked, so that only one instance serves the new view. */
const builtAndServed = {
  name: 'sales-built-and-served',
  text: `
    SELECT b.view AS built, s.view AS served FROM sales.views b, sales.views s
    WHERE b.state = 'building' AND s.state = 'serving' FOR UPDATE SKIP LOCKED`,
};

const retire = { name: 'sales-retire', text: `UPDATE sales.views SET state = 'retired' WHERE view = $1` };

const serve = {
  name: 'sales-serve',
  text: `UPDATE sales.views SET state = 'serving', serving_since = now() WHERE view = $1`,
};

const retiredAndRead = {
  name: 'sales-retired-and-read',
  text: `
    SELECT view FROM sales.views v
    WHERE state = 'retired' AND EXISTS (SELECT FROM sales.checkpoints c WHERE c.consumer = 'sales-' || v.view)`,
};

const forgetRetired = {
  name: 'sales-forget-retired',
  text: `
    WITH forgotten AS (
      DELETE FROM sales.days WHERE (tenant_id, view, day, product_id, currency) IN (
        SELECT d.tenant_id, d.view, d.day, d.product_id, d.currency
        FROM sales.days d JOIN sales.views v ON v.view = d.view AND v.state = 'retired'
        LIMIT $1
      )
      RETURNING 1
    )
    SELECT count(*)::int AS forgotten FROM forgotten`,
};

const pageText = (condition: string): string => `
    SELECT d.day::text, d.product_id, d.currency, d.orders::text, d.ordered::text, d.cancelled::text, d.returned::text,
      d.ordered_minor::text, d.cancelled_minor::text, d.returned_minor::text
    FROM sales.days d
    WHERE d.tenant_id = $1 AND d.view = (SELECT view FROM sales.views WHERE state = 'serving')
      AND d.day BETWEEN $2::date AND $3::date ${condition}
      AND (d.day, d.product_id, d.currency) < ($4::date, $5::text COLLATE "C", $6::text COLLATE "C")
    ORDER BY d.day DESC, d.product_id DESC, d.currency DESC LIMIT $7`;

const page = { name: 'sales-page', text: pageText('') };

/** A separate statement, because it uses another index. */
const pageOfProduct = { name: 'sales-page-of-product', text: pageText('AND d.product_id = $8::text') };

const sold = {
  name: 'sales-sold',
  text: `
    SELECT coalesce(sum(ordered - cancelled - returned), 0)::text AS sold FROM sales.days
    WHERE tenant_id = $1 AND view = (SELECT view FROM sales.views WHERE state = 'serving')
      AND product_id = $2 AND day BETWEEN $3 AND $4`,
};

const begin = {
  name: 'sales-begin',
  text: `
    INSERT INTO sales.views (view, state) SELECT max(view) + 1, 'building' FROM sales.views
    ON CONFLICT DO NOTHING RETURNING view`,
};

const all = {
  name: 'sales-views',
  text: `
    SELECT view, state, events::text, until, begun_at, serving_since FROM sales.views ORDER BY view DESC LIMIT 50`,
};
