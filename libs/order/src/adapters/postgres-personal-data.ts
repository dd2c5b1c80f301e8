import { Injectable } from '@nestjs/common';
import { limits, maxUuid } from '#contracts';
import { InjectSql, Sql } from '#database';
import type { HistoryEntry } from '../domain/order.js';
import type { Customer, WrappedKey } from '../domain/personal-data.js';
import type { CustomerKeys, KeptOrder } from '../use-cases/keep-personal-data.js';
import { pageLines } from '../use-cases/read-orders.js';
import type { WrappedKeys } from '../use-cases/rotate-data-keys.js';
import type { CustomerData } from '../use-cases/export-and-erase-personal-data.js';
import { orderOf, type OrderRow } from './order.entity.js';
import { orderColumns } from './postgres-orders.js';
import { toldLines, withinLines } from './within-lines.js';

type KeyRow = Customer & WrappedKey;

interface KeptRow extends OrderRow {
  personal: Buffer | null;
  personalKey: string | null;
}

/** Encrypted personal data of orders in Postgres, and the data keys of customers. */
@Injectable()
export class PostgresPersonalData implements CustomerKeys, CustomerData, WrappedKeys {
  constructor(@InjectSql('order') private readonly sql: Sql) {}

  async keysOf(tenant: string, customerIds: readonly string[]): Promise<ReadonlyMap<string, WrappedKey>> {
    return byCustomer(await this.sql.query<KeyRow>(keysOf, [tenant, customerIds]));
  }

  async addKeys(tenant: string, offered: ReadonlyMap<string, WrappedKey>): Promise<ReadonlyMap<string, WrappedKey>> {
    const keys = [...offered.values()];
    const rows = await this.sql.query<KeyRow>(addKeys, [
      tenant,
      [...offered.keys()],
      keys.map((it) => it.keyId),
      keys.map((it) => it.masterId),
      keys.map((it) => it.wrapped),
    ]);
    return byCustomer(rows);
  }

  async keptOrders(tenant: string, orderIds: readonly string[]): Promise<KeptOrder[]> {
    return this.withKeys(tenant, await this.sql.query<KeptRow>(keptOrders, [tenant, orderIds]));
  }

  async ordersOf(...[{ tenant, customerId }, before, limit]: Parameters<CustomerData['ordersOf']>) {
    // One more than asked for tells whether there are more.
    const values = [tenant, customerId, before ?? maxUuid, limit + 1, pageLines];
    const rows = await this.sql.query<KeptRow & { linesSoFar: number }>(ordersOfCustomer, values);
    const isMore = rows.length > limit || (rows.at(-1)?.linesSoFar ?? 0) >= pageLines;
    return { orders: await this.withKeys(tenant, rows.slice(0, limit)), isMore };
  }

  /** Looks up keys only if there is something to decrypt. A key that was destroyed in between is missing. */
  private async withKeys(tenant: string, rows: readonly KeptRow[]): Promise<KeptOrder[]> {
    const keyIds = rows.flatMap((row) => row.personalKey ?? []);
    const keys = keyIds.length === 0 ? [] : await this.sql.query<WrappedKey>(keysById, [tenant, [...new Set(keyIds)]]);
    const byId = new Map(keys.map((it) => [it.keyId, it]));
    return rows.map((row) => {
      const { personal, personalKey } = row;
      return { order: orderOf(row), sealed: personal && { personal, key: byId.get(personalKey!) ?? null } };
    });
  }

  async histories(...[tenant, orderIds, limit]: Parameters<CustomerData['histories']>) {
    const values = [tenant, orderIds, limit, pageLines];
    const rows = await this.sql.query<HistoryEntry & { orderId: string }>(histories, values);
    return Map.groupBy(rows, (row) => row.orderId);
  }

  async destroyKey({ tenant, customerId }: Customer): Promise<boolean> {
    return (await this.sql.query(destroyKey, [tenant, customerId])).length > 0;
  }

  /** The caller may be told that nothing is left of a customer: that must not be lost. */
  async isKnown({ tenant, customerId }: Customer): Promise<boolean> {
    const rows = await this.sql.readSafely((sql) => sql.query(known, [tenant, customerId]));
    return rows.length > 0;
  }

  async mastersInUse(): Promise<string[]> {
    return (await this.sql.query<{ masterId: string }>(mastersInUse)).map((row) => row.masterId);
  }

  wrappedBy(masterId: string, after: Customer | undefined, limit: number): Promise<KeyRow[]> {
    return this.sql.query<KeyRow>(wrappedBy, [masterId, after?.tenant ?? '', after?.customerId ?? '', limit]);
  }

  async replace(masterId: string, keys: readonly KeyRow[]): Promise<void> {
    await this.sql.query(replace, [
      masterId,
      keys.map((it) => it.tenant),
      keys.map((it) => it.customerId),
      keys.map((it) => it.keyId),
      keys.map((it) => it.masterId),
      keys.map((it) => it.wrapped),
    ]);
  }
}

const byCustomer = (rows: readonly KeyRow[]): ReadonlyMap<string, WrappedKey> =>
  new Map(rows.map((row) => [row.customerId, row]));

const keyColumns = `key_id AS "keyId", master_id AS "masterId", wrapped`;

const keysOf = {
  name: 'order-customer-keys',
  text: `
    SELECT customer_id AS "customerId", ${keyColumns} FROM orders.customer_keys
    WHERE tenant_id = $1 AND customer_id = ANY ($2::text[])`,
};

/**
 * If two processes add a key for one customer, the second waits for the first and gets its key. Sorted, so that they do not
 * deadlock.
 */
const addKeys = {
  name: 'order-add-customer-keys',
  text: `
    INSERT INTO orders.customer_keys AS k (tenant_id, customer_id, key_id, master_id, wrapped)
    SELECT $1, customer_id, key_id, master_id, wrapped
    FROM unnest($2::text[], $3::uuid[], $4::text[], $5::bytea[]) AS w(customer_id, key_id, master_id, wrapped)
    ORDER BY customer_id COLLATE "C"
    ON CONFLICT (tenant_id, customer_id) DO UPDATE SET made_at = k.made_at
    RETURNING customer_id AS "customerId", ${keyColumns}`,
};

const keysById = {
  name: 'order-keys-by-id',
  text: `SELECT ${keyColumns} FROM orders.customer_keys WHERE tenant_id = $1 AND key_id = ANY ($2::uuid[])`,
};

const keptColumns = `${orderColumns}, o.personal, o.personal_key AS "personalKey"`;

const keptOrders = {
  name: 'order-kept',
  text: `
    SELECT ${keptColumns} FROM orders.orders o
    WHERE o.tenant_id = $1 AND o.order_id = ANY ($2::uuid[]) AND o.status <> 'void'`,
};

/** The size includes the lines of the history, of which each order comes with the first page. */
const keptOfCustomer = `
  SELECT ${keptColumns}, jsonb_array_length(o.lines) + (
    SELECT coalesce(sum(told.size), 0) FROM (
      SELECT ${toldLines} AS size FROM orders.events e
      WHERE e.tenant_id = o.tenant_id AND e.order_id = o.order_id ORDER BY e.version LIMIT ${limits.page}
    ) told
  ) AS size
  FROM orders.orders o
  WHERE o.tenant_id = $1 AND o.customer_id = $2 AND o.order_id < $3::uuid AND o.status <> 'void'
  ORDER BY o.order_id DESC LIMIT $4`;

const ordersOfCustomer = {
  name: 'order-kept-of-customer',
  text: `
    SELECT p.*, p.so_far::bigint AS "linesSoFar" FROM ${withinLines(keptOfCustomer, 's."orderId" DESC', '$5::int')} p
    ORDER BY p."orderId" DESC`,
};

const firstEntries = `
  SELECT e.*, ${toldLines} AS size FROM orders.events e
  WHERE e.tenant_id = $1 AND e.order_id = o.order_id ORDER BY e.version LIMIT $3`;

const histories = {
  name: 'order-histories',
  text: `
    SELECT p.order_id AS "orderId", p.version, p.type, p.status, p.data, p.at
    FROM unnest($2::uuid[]) AS o(order_id)
    CROSS JOIN LATERAL ${withinLines(firstEntries, 's.version', '$4::int')} p
    ORDER BY p.order_id, p.version`,
};

const destroyKey = {
  name: 'order-destroy-customer-key',
  text: `DELETE FROM orders.customer_keys WHERE tenant_id = $1 AND customer_id = $2 RETURNING 1`,
};

const known = {
  name: 'order-customer-known',
  text: `SELECT 1 FROM orders.orders WHERE tenant_id = $1 AND customer_id = $2 AND status <> 'void' LIMIT 1`,
};

/** Jumps from one value to the next in the index (a loose index scan): there are few master keys and many data keys. */
const mastersInUse = {
  name: 'order-masters-in-use',
  text: `
    WITH RECURSIVE used AS (
      SELECT (SELECT min(master_id) FROM orders.customer_keys) AS master_id
      UNION ALL
      SELECT (SELECT min(k.master_id) FROM orders.customer_keys k WHERE k.master_id > used.master_id)
      FROM used WHERE used.master_id IS NOT NULL
    )
    SELECT master_id AS "masterId" FROM used WHERE master_id IS NOT NULL`,
};

const wrappedBy = {
  name: 'order-keys-wrapped-by',
  text: `
    SELECT tenant_id AS tenant, customer_id AS "customerId", ${keyColumns} FROM orders.customer_keys
    WHERE master_id = $1 AND (tenant_id, customer_id) > ($2, $3) ORDER BY tenant_id, customer_id LIMIT $4`,
};

/**
 * Skips keys that were destroyed, made anew or replaced meanwhile. All are locked first, in one order, so that two processes
 * that replace the same keys do not deadlock.
 */
const replace = {
  name: 'order-replace-wrapped',
  text: `
    WITH held AS MATERIALIZED (
      SELECT k.tenant_id, k.customer_id, n.master_id, n.wrapped
      FROM unnest($2::text[], $3::text[], $4::uuid[], $5::text[], $6::bytea[])
        AS n(tenant_id, customer_id, key_id, master_id, wrapped)
      JOIN orders.customer_keys k ON k.tenant_id = n.tenant_id AND k.customer_id = n.customer_id AND k.key_id = n.key_id
      WHERE k.master_id = $1
      ORDER BY k.tenant_id, k.customer_id
      FOR NO KEY UPDATE OF k
    )
    UPDATE orders.customer_keys k SET master_id = held.master_id, wrapped = held.wrapped
    FROM held WHERE k.tenant_id = held.tenant_id AND k.customer_id = held.customer_id`,
};
