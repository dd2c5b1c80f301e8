import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Daemon } from '../cluster/daemon.js';
import { eventually } from '../support/eventually.js';
import { randomOf } from '../support/fresh.js';
import type { Load } from '../support/load.js';
import { startScaled } from '../support/scaled-shapes.js';
import { servicePorts, type Shape } from '../support/shapes.js';
import { acknowledged, expectAnswers, Trial } from '../support/trial.js';
import { Visits } from '../support/visits.js';

const hasHaproxy = spawnSync('haproxy', ['-v']).status === 0;
if (!hasHaproxy) process.stderr.write('There is no haproxy here: the tests of the edge are skipped.\n');

const thinkMs = 100;
/** Two of them by the seed; all of them with `npm run test:crash`. */
const drained = randomOf('edge')
  .shuffled(['order', 'inventory', 'payment', 'cache'])
  .slice(0, 'everyCrashPoint' in globalThis ? 4 : 2);

/** The very file of the containers, but for where things are: here the instances of a service differ by their port. */
const hereOf = async (shape: Shape, port: number): Promise<string> => {
  const text = await readFile('docker/haproxy.cfg', 'utf8');
  return text
    .replace('bind :8080', `bind 127.0.0.1:${port}`)
    .replaceAll(/server-template (\w+)- 10 \S+ check resolvers names init-addr none/g, (_, name: string) =>
      shape.services
        .filter((it) => it.name === name || it.name.startsWith(`${name}-`))
        .map((it) => `server ${it.name} ${new URL(it.url).host} check`)
        .join('\n  '),
    );
};

(hasHaproxy ? describe : describe.skip)('HAProxy at the edge', () => {
  let shape: Shape;
  let trial: Trial;
  let edge: string;
  let haproxy: Daemon;
  let folder: string;

  beforeAll(async () => {
    shape = await startScaled();
    const [port] = await servicePorts(1);
    folder = await mkdtemp(join(tmpdir(), 'cleave-edge-'));
    const file = join(folder, 'haproxy.cfg');
    await writeFile(file, await hereOf(shape, port!));
    haproxy = new Daemon('haproxy', ['haproxy', '-db', '-f', file], { folder });
    await haproxy.start();
    edge = `http://127.0.0.1:${port}`;
    await eventually(async () => {
      if (!haproxy.isRunning) throw new Error(`HAProxy ended: ${haproxy.output}`);
      for (const path of ['/products', '/orders', '/cache/stats', '/sales', '/webhook-endpoints', '/health/ready'])
        expect([path, (await fetch(`${edge}${path}`)).status]).toEqual([path, 200]);
    });
    trial = new Trial({ ...shape, baseUrl: edge });
  });
  afterAll(async () => {
    await haproxy?.kill('SIGTERM');
    await shape?.stop();
    if (folder) await rm(folder, { recursive: true });
  });

  it('is configured as HAProxy takes it', () => {
    const { status, stderr } = spawnSync('haproxy', ['-c', '-f', 'docker/haproxy.cfg'], { encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, expect.not.stringMatching(/ALERT|WARNING/)]);
  });

  it('sends what a service answers to the service, and all else to the gateway', async () => {
    // A service says of what it does not know that it is not its own; the gateway shows the document of all.
    const document = (await (await fetch(`${edge}/openapi.json`)).json()) as { paths: object };
    expect(Object.keys(document.paths)).toEqual(expect.arrayContaining(['/orders', '/products', '/cache', '/sales']));
    expect((await fetch(`${edge}/docs`)).status).toBe(200);
    await shape.service('gateway').kill('SIGTERM');
    expect((await fetch(`${edge}/products`)).status).toBe(200);
    expect((await fetch(`${edge}/orders/`)).status).toBeLessThan(500);
    await eventually(async () => expect((await fetch(`${edge}/docs`)).status).toBe(503));
    await shape.service('gateway').restart();
    await eventually(async () => expect((await fetch(`${edge}/docs`)).status).toBe(200));
  });

  it.each(['/metrics', '/%6Detrics', '/METRICS', '/metrics/', '/metrics?x'])('shows nobody %s', async (path) => {
    const answer = await fetch(`${edge}${path}`);
    expect(answer.status).toBe(404);
    expect(await answer.text()).not.toContain('process_');
  });

  it('drains and adds instances under load, and no request fails', async () => {
    await trial.stock();
    const visited = await trial.api.product({ onHand: 1_000_000 });
    const load = trial.load(thinkMs);
    const visits = new Visits(edge, 6, visited);
    const goOn = async (of: Load, count = 50): Promise<void> => {
      const before = acknowledged(of.attempts).length;
      await of.until(() => acknowledged(of.attempts).length > before + count);
    };
    await goOn(load);
    for (const module of drained) {
      const [first, second] = [1, 2].map((it) => shape.service(`${module}-${it}`));
      await second!.restart();
      await goOn(load, 100);
      expect(await first!.kill('SIGTERM')).toEqual({ code: 0, signal: null });
      await goOn(load);
      await first!.restart();
      await goOn(load);
    }
    await visits.end();
    expectAnswers(await load.end(), [201, 409]);
    expect(visits.failures).toEqual([]);
    await visits.expectKept(trial.api, trial.ledger, 1_000_000);
    await trial.settle();
  });
});
