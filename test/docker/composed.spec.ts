import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually, natsOrSkip, startRedis, testDatabase } from '#testing';
import { scopes, type IssuedKey } from '#contracts';
import { Daemon } from '../cluster/daemon.js';
import { Api, ok, type SalesPage } from '../support/api.js';
import { guardFolder, unguardFolder } from '../support/app-process.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { allAt } from '../support/tables.js';
import { compose, type Service } from './compose.js';

const describeWithNats = await natsOrSkip(describe);

/** The path of the health check, which a container requests from itself. */
const healthOf = ({ healthcheck }: Service): string => new URL(healthcheck!.test.at(-1)!).pathname;

describeWithNats('the compose files of the split with NATS, run without containers', () => {
  const { services } = compose('compose.split.yaml', 'compose.split-nats.yaml');
  const brokers = Object.entries(services).filter(([name]) => name.startsWith('nats-'));
  const apps = Object.entries(services).filter(([, { build }]) => build !== undefined);
  const daemons = new Map<string, Daemon>();
  /** The local address for each address in the files. */
  const places = new Map<string, string>();
  let folder: string;
  let shape: Shape;

  /** Replaces the addresses in a text of the compose files by the local ones. */
  const here = (text: string): string => text.replaceAll(/[\w.-]+:\d+/g, (address) => places.get(address) ?? address);

  const portOf = (address: string): string => places.get(address)!.split(':')[1]!;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cleave-composed-'));
    guardFolder(folder);
    const [redis, database] = await Promise.all([startRedis(), testDatabase()]);
    places.set('redis:6379', redis.url.replace('redis://', ''));
    const ports = await servicePorts(3 * brokers.length + 3 * apps.length);
    const place = (address: string): void => void places.set(address, `127.0.0.1:${ports.pop()}`);
    for (const [name] of brokers) for (const port of [4222, 6222, 8222]) place(`${name}:${port}`);
    for (const [name, { environment = {} }] of apps) {
      place(`${name}:3000`);
      for (const [variable, value] of Object.entries(environment))
        if (variable.endsWith('_LISTEN')) place(`${name}:${value.split(':').at(-1)}`);
    }
    for (const [name, { command }] of brokers) {
      const own = here(
        command!
          .join('\n')
          .replace('0.0.0.0', name)
          .replace('--http_port=8222', `--http_port=${portOf(`${name}:8222`)}`)
          .replace('/data', join(folder, name)),
      ).split('\n');
      const listening = ['--addr', '127.0.0.1', '--port', portOf(`${name}:4222`)];
      const daemon = new Daemon(name, ['nats-server', ...own, ...listening], { folder });
      daemons.set(name, daemon);
      await daemon.start();
    }
    for (const [name, service] of brokers)
      await eventually(async () => {
        if (!daemons.get(name)!.isRunning) throw new Error(`${name} ended: ${daemons.get(name)!.output}`);
        expect((await fetch(`http://${places.get(`${name}:8222`)}${healthOf(service)}`)).status).toBe(200);
      });
    shape = await startPlan('composed', {
      services: apps.map(([name, { environment = {} }]) => ({
        app: name,
        port: Number(portOf(`${name}:3000`)),
        environment: Object.fromEntries(
          Object.entries(environment).map(([variable, value]) => [
            variable,
            variable.endsWith('DATABASE_URL') ? database.url : here(value.replace('0.0.0.0', name)),
          ]),
        ),
      })),
      databaseUrls: () => Promise.resolve(allAt(database.url)),
      release: async () => {
        await redis.stop();
        await database.stop();
      },
    });
  });
  afterAll(async () => {
    await shape?.stop();
    for (const daemon of daemons.values()) await daemon.kill();
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    unguardFolder(folder);
  });

  it('place orders and count them in sales, with three replicas of the log, of which one may be killed', async () => {
    const environment = services['gateway']!.environment!;
    const gateway = new Api(shape.service('gateway').url);
    const asking = (credential: string) => ({ headers: { authorization: `Bearer ${credential}` } });
    const body = { name: 'of a test', scopes };
    const issued = await gateway.send<IssuedKey>('POST', '/keys', { body, ...asking(environment['ADMIN_KEY']!) });
    const mine = asking(ok(issued, 201).key);
    const product = { name: 'Mug', unit_price_minor: 850, currency: 'GBP' };
    ok(await gateway.send('PUT', '/products/mug', { body: product, ...mine }), 201);
    ok(await gateway.send('PUT', '/stock/mug', { body: { on_hand: 10 }, ...mine }));
    const sold = async (units: number): Promise<void> => {
      ok(
        await gateway.send('POST', '/orders', { body: { customer_id: 'c', product_id: 'mug', quantity: 1 }, ...mine }),
        201,
      );
      await eventually(async () => {
        const { data } = ok(await gateway.send<SalesPage>('GET', '/sales', mine));
        expect(data).toMatchObject([{ product_id: 'mug', ordered: units }]);
      });
    };
    await sold(1);
    const kept = await fetch(`http://${places.get('nats-1:8222')}/jsz?streams=true&config=true&leader-only=false`);
    expect(await kept.text()).toMatch(/"num_replicas": ?3/);
    await daemons.get('nats-2')!.kill();
    await sold(2);
  });
});
