import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, cp, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { guardFolder, unguardFolder } from '../support/app-process.js';
import { servicePorts } from '../support/shapes.js';

/** It compiles twice, on a machine that is busy. */
const compilesWithinMs = 240_000;

it(
  '`npm run dev` restarts the monolith after a change, but not its embedded Postgres, which outlasts it at the end',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'cleave dev '));
    const dataDir = join(folder, '.data');
    guardFolder(dataDir);
    for (const part of ['apps', 'libs', 'scripts', 'package.json', 'tsconfig.json', 'nest-cli.json'])
      await cp(part, join(folder, part), { recursive: true });
    await symlink(resolve('node_modules'), join(folder, 'node_modules'));
    const [port] = await servicePorts(1);
    const { scripts } = JSON.parse(await readFile('package.json', 'utf8')) as { scripts: { dev: string } };
    const dev = spawn(scripts.dev, {
      shell: true,
      // A process group of its own, like that of a terminal.
      detached: true,
      cwd: folder,
      // With the name of a script, it ends when the shell, its parent, is gone.
      env: { PATH: process.env['PATH'], PORT: String(port), npm_lifecycle_event: 'dev' },
    });
    let said = '';
    for (const stream of [dev.stdout, dev.stderr]) stream.on('data', (chunk) => (said += String(chunk)));
    const ended = once(dev, 'close');
    const postmaster = async (): Promise<string> =>
      (await readFile(join(dataDir, 'postgres/data/postmaster.pid'), 'utf8')).split('\n')[0]!;
    try {
      await eventually(async () => expect(said).toContain('answers at'), compilesWithinMs);
      const before = await postmaster();
      const demo = await fetch(`http://127.0.0.1:${port}/products/demo-mug`);
      expect([demo.status, await demo.json()]).toEqual([200, expect.objectContaining({ product_id: 'demo-mug' })]);
      said = '';
      await appendFile(join(folder, 'libs/service/src/welcome.ts'), '\nexport const changed = true;\n');
      await eventually(async () => expect(said).toContain('answers at'), compilesWithinMs);
      expect(said).not.toMatch(/lost an idle connection|ended unexpectedly/);
      expect(await postmaster()).toBe(before);
      // The monolith waits two seconds for further requests on this connection.
      const idle = connect(port!, '127.0.0.1').on('error', () => undefined);
      idle.write('GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n');
      await once(idle, 'data');
      said = '';
      // What happens when the terminal is closed.
      process.kill(-dev.pid!, 'SIGHUP');
      await ended;
      idle.destroy();
      expect(said).toMatch(/"monolith".*"Stopped\."[^]*"Stopped\."/);
      expect(said).not.toMatch(/lost an idle connection|ended unexpectedly/);
    } finally {
      if (dev.exitCode === null && dev.signalCode === null) process.kill(-dev.pid!, 'SIGTERM');
      await ended;
      await eventually(async () => expect(await postmaster().catch(() => 'gone')).toBe('gone'), 60_000);
      await rm(folder, { recursive: true, force: true, maxRetries: 5 });
      unguardFolder(dataDir);
    }
  },
  3 * compilesWithinMs,
);
