import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, headers } from '@nats-io/transport-node';
import { logBeginning, scopes, type IssuedKey } from '#contracts';
import { eventually, natsOrSkip, startNats, testDatabase, type NatsServer, type TestDatabase } from '#testing';
import { Api, ok, type SalesPage } from '../support/api.js';
import { AppProcess } from '../support/app-process.js';
import { fresh } from '../support/fresh.js';
import { servicePorts } from '../support/shapes.js';
import { As, bearer } from './world.js';

const admin = 'the-admin-key-of-this-test-is-long-enough';
const secret = 'known-to-all-services-and-to-nobody-else';

const describeNats = await natsOrSkip(describe);

describeNats('events over NATS', () => {
  let nats: NatsServer;
  let database: TestDatabase;
  let service: AppProcess;
  let api: Api;
  beforeAll(async () => {
    [nats, database] = await Promise.all([startNats(), testDatabase()]);
    const [port] = await servicePorts(1);
    service = new AppProcess('monolith', {
      ...{ PORT: String(port), DATABASE_URL: database.url, EVENTS_AT: nats.url },
      ...{ ADMIN_KEY: admin, SERVICE_SECRET: secret },
    });
    service.spawn();
    api = new Api(`http://127.0.0.1:${port}`);
    await service.untilReady(`${api.baseUrl}/health/ready`);
  });
  afterAll(async () => {
    await service?.stop();
    await nats?.stop();
    await database?.stop();
  });

  it('are ignored if forged, and do not keep genuine events from being applied', async () => {
    const made = await api.send<IssuedKey>('POST', '/keys', { ...bearer(admin), body: { name: 'x', scopes } });
    const shop = new As(api, ok(made, 201).key);
    const product_id = fresh('product');
    const product = { name: 'Mug', unit_price_minor: 850, currency: 'GBP' };
    ok(await shop.send('PUT', `/products/${product_id}`, { body: product }), 201);
    ok(await shop.send('PUT', `/stock/${product_id}`, { body: { on_hand: 1_000 } }));
    const order = { customer_id: 'c', product_id, quantity: 1 };
    const place = async (): Promise<void> => void ok(await shop.send('POST', '/orders', { body: order }), 201);
    const sold = async (): Promise<number> =>
      ok(await shop.send<SalesPage>('GET', `/sales?product_id=${product_id}`)).data.reduce(
        (sum, it) => sum + it.ordered,
        0,
      );
    await place();
    await eventually(async () => expect(await sold()).toBe(1));

    const connection = await connect({ servers: nats.url });
    const { streams } = await jetstreamManager(connection);
    const known = (await streams.getMessage('cleave-orders', { seq: 1 }))!;
    const signature = known.header.get('Cleave-Signature');
    expect(signature).not.toBe('');
    // A consumer that believed it would skip all later events.
    const sequence = `18000000000000000000-${'0'.repeat(19)}`;
    const forged = JSON.stringify({ ...known.json<object>(), id: randomUUID(), sequence });
    for (let part = 0; part < 8; part += 1)
      for (const signed of [undefined, signature]) {
        const said = headers();
        said.set('Cleave-Sequence', sequence);
        said.set('Cleave-Previous', logBeginning);
        if (signed !== undefined) said.set('Cleave-Signature', signed);
        await jetstream(connection).publish(`cleave.orders.${part}`, forged, { headers: said });
      }
    await connection.close();

    for (let times = 0; times < 20; times += 1) await place();
    await eventually(async () => expect(await sold()).toBe(21));
    await eventually(async () => {
      const { text } = await api.get('/metrics');
      for (const consumer of ['sales', 'webhooks'])
        expect(text).toMatch(
          new RegExp(`^events_consumer_refused_total\\{.*messaging_consumer_group_name="${consumer}.*\\} 16$`, 'm'),
        );
    });
    // The health report is cached for a second.
    await eventually(async () => {
      const health = ok(await api.get('/health/ready'));
      expect(health).toMatchObject({ status: 'degraded', details: { 'event-bus': { status: 'degraded' } } });
    }, 5_000);
    expect(service.log).toContain('that are not signed with SERVICE_SECRET');
    expect(service.log).not.toContain(secret);
  });
});
