import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Api } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { ofEach, query } from '../support/tables.js';
import { InstalledPostgres, postgresOrSkip, tool } from './installed-postgres.js';

const describeWithPostgres = await postgresOrSkip(describe);

describeWithPostgres('an order database that is moved while inventory stays', () => {
  let postgres: InstalledPostgres;
  let shape: Shape;
  let dumped: string;
  const urlOf = (database: string): string => postgres.url.replace(/cleave$/, database);

  beforeAll(async () => {
    postgres = await InstalledPostgres.start();
    dumped = await InstalledPostgres.folder();
    for (const name of ['orders', 'moved']) await query(postgres.url, `CREATE DATABASE ${name}`);
    const [inventory, messages, before, after, listenBefore, listenAfter] = await servicePorts(6);
    const at = `tcp://127.0.0.1:${messages}`;
    const orderOn = (database: string, listen: number) => ({
      ...{ ORDER_DATABASE_URL: urlOf(database), ORDER_LISTEN: `tcp://127.0.0.1:${listen}` },
      ...{ INVENTORY_AT: at, PAYMENT_AT: 'tcp://127.0.0.1:1' },
    });
    shape = await startPlan('moved', {
      services: [
        {
          ...{ app: 'inventory', port: inventory! },
          environment: { DATABASE_URL: postgres.url, INVENTORY_LISTEN: at, CACHE_AT: 'tcp://127.0.0.1:1' },
        },
        { ...{ app: 'order', name: 'before', port: before! }, environment: orderOn('orders', listenBefore!) },
        {
          ...{ app: 'order', name: 'after', port: after!, isLater: true },
          environment: orderOn('moved', listenAfter!),
        },
      ],
      databaseUrls: () => Promise.resolve(ofEach(() => postgres.url)),
      release: async () => {
        await postgres.stop();
        await InstalledPostgres.discard(dumped);
      },
    });
  });
  afterAll(() => shape?.stop());

  it('is accepted by inventory at once, because its id moves with it', async () => {
    const product_id = await new Api(shape.service('inventory').url).product({ onHand: 5 });
    const body = { customer_id: 'c', product_id, quantity: 1 };
    const key = fresh('moved');
    const order = await new Api(shape.service('before').url).placed(body, key);
    expect(await shape.service('before').kill('SIGTERM')).toEqual({ code: 0, signal: null });
    const file = join(dumped, 'orders.dump');
    await tool('pg_dump', '--dbname', urlOf('orders'), '--format=custom', '--file', file);
    await tool('pg_restore', '--exit-on-error', '--no-owner', '--dbname', urlOf('moved'), file);
    await query(urlOf('moved'), 'SELECT orders.continue_log()');
    await shape.service('after').restart();
    const moved = new Api(shape.service('after').url);
    expect(await moved.placed(body, key)).toEqual(order);
    await moved.placed(body);
    expect(await new Api(shape.service('inventory').url).stock(product_id)).toMatchObject({ reserved: 2 });
  });
});
