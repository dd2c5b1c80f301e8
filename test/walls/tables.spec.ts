import { globSync, readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { accessDatabase } from '#access';
import { migrateDatabase } from '#database';
import { inventoryDatabase } from '#inventory';
import { orderDatabase } from '#order';
import { paymentDatabase } from '#payment';
import { salesDatabase } from '#sales';
import { testDatabase, type TestDatabase } from '#testing';
import { webhooksDatabase } from '#webhooks';
import { query } from '../support/tables.js';

Logger.overrideLogger(false);

/** The databases of all modules that store data, by folder. */
const databases = {
  access: accessDatabase,
  inventory: inventoryDatabase,
  order: orderDatabase,
  payment: paymentDatabase,
  sales: salesDatabase,
  webhooks: webhooksDatabase,
};
const modules = Object.entries(databases).map(([folder, at]) => ({ folder, schema: at('postgres://nowhere').schema }));

/** Tables without data of tenants: the internal state of a module. */
const ofNoTenant = new Set(['branch_decisions', 'checkpoints', 'migrations', 'readers', 'settings', 'views']);

interface Table extends Record<string, unknown> {
  schema: string;
  name: string;
}

describe('the tables of all modules in one database', () => {
  let database: TestDatabase;
  let tables: Table[];
  beforeAll(async () => {
    database = await testDatabase();
    for (const at of Object.values(databases)) await migrateDatabase(at(database.url));
    tables = await query<Table>(
      database.url,
      `SELECT n.nspname AS schema, c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
      ORDER BY 1, 2`,
    );
  });
  afterAll(() => database?.stop());

  it('are in the schema of their module', () => {
    expect(new Set(tables.map((it) => it.schema))).toEqual(new Set(modules.map((it) => it.schema)));
  });

  it('have a mandatory tenant_id, unless they hold internal state', async () => {
    const withTenant = await query<Table & { nullable: boolean }>(
      database.url,
      `SELECT n.nspname AS schema, c.relname AS name, NOT a.attnotnull AS nullable
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE a.attname = 'tenant_id' AND c.relkind IN ('r', 'p')`,
    );
    const named = new Map(withTenant.map((it) => [`${it.schema}.${it.name}`, it.nullable]));
    const lacking = tables.filter((it) => !named.has(`${it.schema}.${it.name}`) && !ofNoTenant.has(it.name));
    expect(lacking).toEqual([]);
    expect([...named].filter(([, isNullable]) => isNullable)).toEqual([]);
  });

  it('are not referenced by foreign keys, views or functions of another module', async () => {
    const constraints = await query(
      database.url,
      `SELECT c.conname FROM pg_constraint c JOIN pg_class f ON f.oid = c.confrelid
      WHERE c.contype = 'f' AND f.relnamespace <> c.connamespace`,
    );
    expect(constraints).toEqual([]);
    const made = await query<Table & { text: string }>(
      database.url,
      `SELECT n.nspname AS schema, p.proname AS name, pg_get_functiondef(p.oid) AS text
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prokind IN ('f', 'p')
      UNION ALL SELECT schemaname, viewname, definition FROM pg_views
      WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`,
    );
    expect(made.length).toBeGreaterThan(10);
    const reaching = made.filter((it) =>
      tables.some((table) => table.schema !== it.schema && it.text.includes(`${table.schema}.${table.name}`)),
    );
    expect(reaching.map((it) => `${it.schema}.${it.name}`)).toEqual([]);
  });

  it.each(modules)('are not named in the SQL of another module: libs/$folder', ({ folder, schema }) => {
    const files = globSync(`libs/${folder}/{src,migrations}/**/*.ts`);
    expect(files.length).toBeGreaterThan(3);
    const texts = files.map((file) => [file, readFileSync(file, 'utf8')] as const);
    const named = (table: Table): string[] => {
      const name = new RegExp(`(?<![\\w.'-])${table.schema}\\.${table.name}(?![\\w'])`);
      return texts.flatMap(([file, text]) => (name.test(text) ? [`${table.schema}.${table.name} in ${file}`] : []));
    };
    expect(tables.filter((it) => it.schema === schema).flatMap(named).length).toBeGreaterThan(0);
    expect(tables.filter((it) => it.schema !== schema).flatMap(named)).toEqual([]);
  });
});
