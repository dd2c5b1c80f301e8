import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#database';
import { eventually } from '#testing';
import { Api, ok, refused } from '../support/api.js';
import { AppProcess, guardFolder, unguardFolder } from '../support/app-process.js';
import { servicePorts, splitServices, startPlan, tcpAddresses, type Shape } from '../support/shapes.js';
import { allAt, ofEach } from '../support/tables.js';

/** The health indicator that each app reports as down. */
const awaited: Record<string, string> = {
  ...Object.fromEntries(['order', 'inventory', 'payment', 'sales', 'webhooks'].map((it) => [it, `${it}-database`])),
  gateway: 'access-database',
};

describe('services started before their database', () => {
  let dataDir: string;
  let server: EmbeddedPostgres;
  /** The URL of the server, which stays the same when it is restarted. */
  let url: string;
  beforeAll(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'cleave-late-'));
    guardFolder(dataDir);
    server = await startEmbeddedPostgres({ dataDir });
    await server.createDatabase('cleave');
    url = server.url('cleave');
    await server.stop();
  });
  afterAll(async () => {
    await server.stop();
    await rm(dataDir, { recursive: true, force: true, maxRetries: 5 });
    unguardFolder(dataDir);
  });

  it('are live, name the missing database, and become ready once it starts', async () => {
    const own = ofEach(() => ({ DATABASE_URL: url }));
    const services = await splitServices(await tcpAddresses(), {
      ...own,
      ...{ cache: {}, gateway: { ACCESS_DATABASE_URL: url } },
    });
    const starting = startPlan('late', {
      services,
      databaseUrls: () => Promise.resolve(allAt(url)),
      release: () => Promise.resolve(),
    });
    let shape: Shape | undefined;
    try {
      for (const { app, port } of services.filter((it) => it.app !== 'cache')) {
        const api = new Api(`http://127.0.0.1:${port}`);
        await eventually(async () => {
          const ready = await api.get('/health/ready');
          expect([app, ready.status, ready.body]).toEqual([
            ...[app, 503],
            expect.objectContaining({
              status: 'error',
              error: {
                [awaited[app]!]: {
                  status: 'down',
                  message: expect.stringContaining('cannot be used: the connection failed (ECONNREFUSED)'),
                },
              },
            }),
          ]);
          // Seven processes start at once.
        }, 120_000);
        expect((await api.get('/health/live')).status).toBe(200);
        const answer = await api.place({ customer_id: 'c', product_id: 'p', quantity: 1 });
        refused(answer, '503 unavailable');
        expect(answer.headers.get('retry-after')).toBe('1');
      }
      server = await startEmbeddedPostgres({ dataDir });
      expect(server.url('cleave')).toBe(url);
      shape = await starting;
      for (const { name, log } of shape.services.filter((it) => it.name !== 'cache')) {
        expect([name, log]).toEqual([name, expect.stringContaining('waiting for Postgres. Cannot use Postgres at')]);
        expect(log).not.toContain(new URL(url).password);
      }
      const api = new Api(shape.baseUrl);
      const product_id = await api.product({ onHand: 1 });
      ok(await api.place({ customer_id: 'c', product_id, quantity: 1 }), 201);
    } finally {
      shape ??= await starting;
      await shape.stop();
      await server.stop();
    }
  });

  it('can be stopped while they wait', async () => {
    const [port] = await servicePorts(1);
    const process = new AppProcess('monolith', { DATABASE_URL: url, HOST: '127.0.0.1', PORT: String(port) });
    process.spawn();
    try {
      await eventually(async () => {
        const answer = await new Api(`http://127.0.0.1:${port}`).get('/health/ready');
        expect(answer.text).toContain('order-database');
      });
    } finally {
      expect(await process.kill('SIGTERM')).toEqual({ code: 0, signal: null });
    }
  });
});

describe.each(['redis', 'nats'])(
  'a service started before the %s server that it receives requests through',
  (scheme) => {
    it('is live, names the missing server, and can be stopped', async () => {
      const [port, nobody] = await servicePorts(2);
      const own = { HOST: '127.0.0.1', PORT: String(port), CACHE_LISTEN: `${scheme}://127.0.0.1:${nobody}` };
      const process = new AppProcess('cache', own);
      process.spawn();
      const api = new Api(`http://127.0.0.1:${port}`);
      try {
        await eventually(async () => {
          const ready = await api.get('/health/ready');
          const error = {
            [`${scheme}-messages`]: { status: 'down', message: expect.stringContaining('is unreachable') },
          };
          expect([ready.status, ready.body]).toEqual([503, expect.objectContaining({ status: 'error', error })]);
        });
        expect((await api.get('/health/live')).status).toBe(200);
        await eventually(async () => expect(process.log).toContain(`at ${own.CACHE_LISTEN}: start it`));
      } finally {
        expect(await process.kill('SIGTERM')).toEqual({ code: 0, signal: null });
      }
    });
  },
);
