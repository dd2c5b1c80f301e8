import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import type { MigrationInterface, QueryRunner } from 'typeorm';
import { migrateDatabase } from '#database';
import { orderDatabase } from '#order';
import { salesDatabase } from '#sales';
import { testDatabase, type TestDatabase } from '#testing';
import { webhooksDatabase } from '#webhooks';
import { AppProcess } from '../support/app-process.js';
import { servicePorts, startPlan } from '../support/shapes.js';
import { allAt, query } from '../support/tables.js';
import { acknowledged, expectAnswers, Trial } from '../support/trial.js';
import { dumpUnderWay } from './dump.js';

/** What a next version might do: alter a table that every order is written to. */
class AlterEvents2999000000001 implements MigrationInterface {
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE orders.events ADD COLUMN remark text`);
  }

  async down(): Promise<void> {}
}

describe('a migration that alters a table under load during a dump', () => {
  it('does not delay orders, and completes after the dump', async () => {
    const database = await testDatabase();
    const [port] = await servicePorts(1);
    const shape = await startPlan('dumped', {
      services: [{ app: 'monolith', port: port!, environment: { DATABASE_URL: database.url } }],
      databaseUrls: () => Promise.resolve(allAt(database.url)),
      release: () => database.stop(),
    });
    const trial = new Trial(shape);
    let dump: { end(): Promise<void> } | undefined;
    let migration: Promise<unknown> | undefined;
    try {
      await trial.stock();
      const load = trial.load(20);
      await load.until(() => acknowledged(load.attempts).length > 50);
      dump = await dumpUnderWay(database.url);
      const orders = orderDatabase(database.url);
      let isDone = false;
      migration = migrateDatabase({
        ...orders,
        migrations: [...orders.migrations, AlterEvents2999000000001],
      }).then(() => (isDone = true));
      const from = load.attempts.length;
      // Longer than a request may wait for a lock.
      await setTimeout(6_000);
      expect(isDone).toBe(false);
      const meanwhile = load.attempts.slice(from).filter((it) => it.tookMs !== undefined);
      expect(acknowledged(meanwhile).length).toBeGreaterThan(50);
      // In sum, callers waited hardly longer than that: a single pause of the machine is tolerated.
      const beyond = meanwhile.reduce((sum, it) => sum + Math.max(0, it.tookMs! - 2_000), 0);
      expect(beyond).toBeLessThan(0.1 * load.size * 6_000);
      await dump.end();
      await migration;
      const columns = `SELECT FROM information_schema.columns WHERE table_schema = 'orders' AND column_name = 'remark'`;
      expect(await query(database.url, columns)).toHaveLength(1);
      const placed = acknowledged(load.attempts).length;
      await load.until(() => acknowledged(load.attempts).length > placed + 50);
      expectAnswers(await load.end(), [201, 409]);
      await trial.settle();
    } finally {
      // Cleans up after a failed test.
      await dump?.end();
      await migration;
      await trial.stopLoads();
      await shape.stop();
    }
  });
});

describe('the functions that assign parts of the log to consumers', () => {
  const databases = [orderDatabase, salesDatabase, webhooksDatabase];
  const functions = `
    SELECT p.oid::regprocedure::text AS name, pg_get_functiondef(p.oid) AS made
    FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
    WHERE nspname IN ('orders', 'sales', 'webhooks') ORDER BY 1`;
  const migrate = async (url: string, is: (name: string) => boolean = () => true): Promise<void> => {
    for (const of of databases) {
      const database = of(url);
      await migrateDatabase({ ...database, migrations: database.migrations.filter((it) => is(it.name)) });
    }
  };

  /**
   * Restores their bugs: leases from before the clock was set back never expired, and checkpoints were not locked in
   * order.
   */
  const older = (made: string): string =>
    made
      .replaceAll(/ OR \w+ > too_long/g, '')
      .replace(/too_long [^;]+;/, '')
      .replace(/PERFORM FROM \w+\.checkpoints[^;]+;/, '');

  it('are the same in a database created before their fix as in a new one', async () => {
    const [updated, fresh] = await Promise.all([testDatabase(), testDatabase()]);
    try {
      await migrate(updated.url, (name) => !name.startsWith('TakenOver'));
      const before = await query(updated.url, functions);
      const old = before.map(({ made }) => older(String(made))).filter((it, at) => it !== before[at]!.made);
      expect(old).toHaveLength(2 * databases.length);
      for (const it of old) await query(updated.url, it);
      await Promise.all([updated, fresh].map(({ url }) => migrate(url)));
      expect(await query(updated.url, functions)).toEqual(await query(fresh.url, functions));
    } finally {
      await Promise.all([updated.stop(), fresh.stop()]);
    }
  });
});

describe('the migrate job', () => {
  let database: TestDatabase;
  const started: AppProcess[] = [];
  beforeAll(async () => {
    database = await testDatabase();
  });
  afterEach(async () => {
    for (const it of started.splice(0)) await it.kill('SIGKILL');
  });
  afterAll(() => database.stop());

  const migrate = async (environment: Record<string, string>): Promise<AppProcess> => {
    const process = new AppProcess('migrate', environment);
    started.push(process);
    process.spawn();
    await process.exit;
    return process;
  };

  it('refuses to start without a database', async () => {
    const process = await migrate({});
    expect(await process.exit).toEqual({ code: 1, signal: null });
    expect(process.log).toMatch(/^ {2}DATABASE_URL: is not set/m);
  });

  it('migrates only the module whose database is configured', async () => {
    const process = await migrate({ ORDER_DATABASE_URL: database.url });
    expect(await process.exit).toEqual({ code: 0, signal: null });
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    const { rows } = await client.query<{ schema: string }>(
      `SELECT table_schema AS schema FROM information_schema.tables WHERE table_name = 'migrations'`,
    );
    await client.end();
    expect(rows).toEqual([{ schema: 'orders' }]);
  });

  it('leaves nothing to migrate for the apps or for a second run', async () => {
    const first = await migrate({ DATABASE_URL: database.url });
    expect(await first.exit).toEqual({ code: 0, signal: null });
    expect(first.log).toContain('migrated the inventory database');
    expect(first.log).not.toContain('migrated the order database');
    const second = await migrate({ DATABASE_URL: database.url });
    expect(await second.exit).toEqual({ code: 0, signal: null });
    expect(second.log).not.toContain('migrated');

    const [port] = await servicePorts(1);
    const monolith = new AppProcess('monolith', {
      ...{ DATABASE_URL: database.url, HOST: '127.0.0.1', PORT: String(port) },
    });
    started.push(monolith);
    monolith.spawn();
    await monolith.untilReady(`http://127.0.0.1:${port}/health/ready`);
    expect(monolith.log).not.toContain('migrated');
    expect(await monolith.kill('SIGTERM')).toEqual({ code: 0, signal: null });
  });
});
