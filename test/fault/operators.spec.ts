import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually, testDatabase, type TestDatabase } from '#testing';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { dataKeys, servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { allAt, connected, query } from '../support/tables.js';
import { Shoppers } from './shoppers.js';

const hotTables = ['products', 'reservations', 'stock_moves']
  .map((it) => `inventory.${it}`)
  .concat(['orders', 'events', 'sagas', 'keyed_changes', 'checkpoints'].map((it) => `orders.${it}`));

describe('what operators do to the database under load', () => {
  let database: TestDatabase;
  let shape: Shape;
  let api: Api;
  let shoppers: Shoppers;

  beforeAll(async () => {
    database = await testDatabase();
    const [port] = await servicePorts(1);
    const environment = { DATABASE_URL: database.url, DATA_KEYS: dataKeys };
    shape = await startPlan('operated', {
      services: [{ app: 'monolith', port: port!, environment }],
      databaseUrls: () => Promise.resolve(allAt(database.url)),
      release: () => database.stop(),
    });
    api = new Api(shape.baseUrl);
  });
  afterAll(() => shape?.stop());

  const placed = (): number => shoppers.placements.filter((it) => it.outcome === 201).length;
  const goOn = async (orders = 5): Promise<void> => {
    const before = placed();
    await shoppers.until(() => placed() >= before + orders);
  };
  const health = async () => (await api.get<{ status: string; info: Record<string, object> }>('/health/ready')).body;

  const endsSessions = async (): Promise<void> => {
    const random = randomOf('ended sessions');
    const sessions = `SELECT pid FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'cleave-%' ORDER BY pid`;
    for (let times = 0; times < 30; times += 1) {
      const pids = (await query<{ pid: number }>(database.url, sessions)).map((it) => it.pid);
      await query(database.url, 'SELECT pg_terminate_backend($1)', [random.pick(pids)]);
      await goOn(1);
    }
  };

  const makesItReadOnly = async (): Promise<void> => {
    const setting = `ALTER DATABASE ${new URL(database.url).pathname.slice(1)} SET default_transaction_read_only`;
    const operator = await connected(database.url);
    try {
      await operator.query(`${setting} = on`);
      await operator.query(`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'cleave-%'`);
      const refused = () => shoppers.placements.filter((it) => it.text?.includes('it is read-only')).length;
      await shoppers.until(() => refused() >= 5);
      const degraded = { status: 'degraded', writes: 'are refused, because the database is read-only' };
      expect((await health()).info['order-database']).toMatchObject(degraded);
      expect((await api.get('/orders?limit=1')).status).toBe(200);
    } finally {
      await operator.query(`${setting} = off`);
      await operator.end();
    }
  };

  const maintains = async (): Promise<void> => {
    for (const table of hotTables) {
      const [column] = await query<{ name: string }>(
        database.url,
        'SELECT attname AS name FROM pg_attribute WHERE attrelid = $1::regclass AND attnum = 1',
        [table],
      );
      for (const statement of [
        `VACUUM FULL ${table}`,
        `REINDEX TABLE ${table}`,
        `CREATE INDEX of_an_operator ON ${table} (${column!.name})`,
        `DROP INDEX ${table.split('.')[0]}.of_an_operator`,
        `ALTER TABLE ${table} ADD COLUMN of_an_operator int`,
        `ALTER TABLE ${table} DROP COLUMN of_an_operator`,
      ])
        await query(database.url, statement);
      await goOn(1);
    }
  };

  it.each([
    ['sessions are ended one by one', endsSessions],
    ['the database is read-only for a while', makesItReadOnly],
    ['every hot table is rewritten, indexed and altered', maintains],
  ])('%s: requests are refused with 503 at worst, and everything recovers by itself', async (name, happens) => {
    shoppers = new Shoppers(api, randomOf(name));
    await shoppers.start();
    await goOn();
    await happens();
    await goOn();
    await shoppers.finish();
    const attempts = [...shoppers.placements, ...shoppers.changes, ...shoppers.refunds];
    const failed = attempts.filter(({ outcome }) => typeof outcome !== 'number' || (outcome >= 500 && outcome !== 503));
    expect(failed).toEqual([]);
    await eventually(async () => expect(await health()).toMatchObject({ status: 'ok' }));
    await shoppers.repeat();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
  });
});
