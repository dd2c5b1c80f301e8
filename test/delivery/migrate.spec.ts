import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { testDatabase, type TestDatabase } from '#testing';
import { AppProcess } from '../support/app-process.js';
import { servicePorts } from '../support/shapes.js';

describe('migrations as a job', () => {
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

  it('brings one module up to date where only that has an address', async () => {
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

  it('leaves nothing to do for the apps, nor for itself', async () => {
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
