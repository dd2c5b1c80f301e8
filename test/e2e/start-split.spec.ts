import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { expect, it } from '@jest/globals';
import { Api } from '../support/api.js';
import { AppProcess, guardFolder, unguardFolder } from '../support/app-process.js';
import { portWith } from '../support/shapes.js';

/** The other ports in use, as offsets from PORT: REST, messages and gRPC of the services. */
const besides = [1, 2, 3, 4, 5, 6, 1_001, 1_002, 1_003, 1_004, 2_001];
const names = ['cache', 'gateway', 'inventory', 'order', 'payment', 'sales', 'webhooks'];

interface Running {
  pid: number;
  command: string;
}

/** All descendants of a process, including Postgres and its processes. */
const startedBy = async (pid: number): Promise<Running[]> => {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-ww', '-o', 'pid=,ppid=,args=']);
  const all = [...stdout.matchAll(/^ *(\d+) +(\d+) (.*)$/gm)].map(([, own, parent, command]) => ({
    ...{ pid: Number(own), parent: Number(parent) },
    command: command!,
  }));
  const below = (of: number): Running[] =>
    all.filter(({ parent }) => parent === of).flatMap((it) => [it, ...below(it.pid)]);
  return below(pid);
};

const isRunning = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    expect(error).toMatchObject({ code: 'ESRCH' });
    return false;
  }
};

it('start:split takes orders through its gateway, and leaves no process running after SIGTERM', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'cleave-e2e-'));
  guardFolder(dataDir);
  const port = await portWith(besides);
  const environment = { DATA_DIR: dataDir, PORT: String(port) };
  const split = new AppProcess('start:split', environment, undefined, 'dist/scripts/start-split.js');
  let running: Running[] = [];
  try {
    split.spawn();
    const api = new Api(`http://127.0.0.1:${port}`);
    await split.untilReady(`${api.baseUrl}/health/ready`);
    const { order_id } = await api.placed({ customer_id: 'c-1', product_id: 'demo-mug', quantity: 1 });
    expect(await api.order(order_id)).toMatchObject({ status: 'confirmed' });
    expect(await api.stock('demo-mug')).toMatchObject({ reserved: 1 });
    running = await startedBy(split.pid);
    const apps = running.flatMap(({ command }) => /dist\/apps\/(\w+)\/src\/main\.js/.exec(command)?.[1] ?? []);
    expect(apps.toSorted()).toEqual(names);
    expect(running.length).toBeGreaterThan(names.length);
    // A signal to the whole process group arrives twice, because npm is in the group and passes it on.
    const toldAt = performance.now();
    process.kill(split.pid, 'SIGTERM');
    const services = running.filter(({ command }) => /dist\/apps\//.test(command));
    const ends = services.map(async ({ pid }) => {
      while (isRunning(pid)) await delay(20);
      return performance.now() - toldAt;
    });
    await delay(100);
    expect(await split.stop()).toBeUndefined();
    // They stop one after the other. Each waits up to two seconds for open connections, but only the gateway has one, opened
    // by this test. The shortest time, because a busy machine may take two seconds for any of them.
    const endedAt = (await Promise.all(ends)).toSorted((a, b) => a - b);
    const tookMs = endedAt.slice(1).map((it, at) => it - endedAt[at]!);
    expect(Math.min(...tookMs)).toBeLessThan(2_000);
    expect(split.log).not.toContain('stopping at once');
    expect(running.filter(({ pid }) => isRunning(pid))).toEqual([]);
  } finally {
    await split.stop();
    for (const { pid } of running) if (isRunning(pid)) process.kill(pid, 'SIGKILL');
    await rm(dataDir, { recursive: true, force: true, maxRetries: 5 });
    unguardFolder(dataDir);
  }
});
