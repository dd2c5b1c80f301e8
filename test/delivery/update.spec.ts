import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startRedis, testDatabase } from '#testing';
import { AppProcess } from '../support/app-process.js';
import { servicePorts, startPlan } from '../support/shapes.js';
import { allAt } from '../support/tables.js';
import { acknowledged, expectAnswers, Trial } from '../support/trial.js';
import { Visits } from '../support/visits.js';

/** Before this commit, which may be a release itself. */
const lastRelease = (): string | undefined => {
  const { status, stdout } = spawnSync('git', ['describe', '--tags', '--abbrev=0', '--match', 'v*', 'HEAD^'], {
    encoding: 'utf8',
  });
  return status === 0 ? stdout.trim() : undefined;
};

/** The last release, or whatever commit is named. */
const from = process.env['UPDATE_FROM'] ?? lastRelease();
if (!from) process.stderr.write('Nothing has been released yet: the test of an update has nothing to update from.\n');

const buildTimeoutMs = 600_000;
const thinkMs = 100;

/** Compiles another version of ours in a folder of its own, with the packages that it has locked. */
const compile = (version: string): string => {
  const folder = mkdtempSync(join(tmpdir(), 'cleave-update-'));
  const archive = execFileSync('git', ['archive', version], { maxBuffer: 1024 ** 3 });
  execFileSync('tar', ['-x', '-C', folder], { input: archive });
  const lock = (at: string): string => readFileSync(join(at, 'package-lock.json'), 'utf8');
  if (lock(folder) === lock('.')) symlinkSync(resolve('node_modules'), join(folder, 'node_modules'));
  else execFileSync('npm', ['ci', '--ignore-scripts'], { cwd: folder, stdio: 'ignore' });
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json'], { cwd: folder });
  return folder;
};

(from ? describe : describe.skip)(`an update from ${from ?? 'the last release'}`, () => {
  let home: string;
  beforeAll(() => {
    home = compile(from!);
  }, buildTimeoutMs);
  afterAll(() => {
    if (home) rmSync(home, { recursive: true });
  });

  it('migrates under the old version while that serves, and takes over without a failed request', async () => {
    const [redis, database] = await Promise.all([startRedis(), testDatabase()]);
    const [gateway, one, two] = await servicePorts(3);
    const places = `http://127.0.0.1:${one},http://127.0.0.1:${two}`;
    const modules = ['ORDER', 'INVENTORY', 'CACHE', 'PAYMENT', 'SALES', 'WEBHOOKS'];
    const own = { DATABASE_URL: database.url, CACHE_REDIS_URL: redis.url, CACHE_REDIS_DEADLINE_MS: '5000' };
    const shape = await startPlan('updated', {
      services: [
        {
          ...{ app: 'gateway', port: gateway! },
          environment: Object.fromEntries(modules.map((module) => [`${module}_URL`, places])),
        },
        { ...{ app: 'monolith', name: 'old', port: one!, home }, environment: own },
        { ...{ app: 'monolith', name: 'new', port: two!, isLater: true }, environment: own },
      ],
      databaseUrls: () => Promise.resolve(allAt(database.url)),
      release: async () => {
        await redis.stop();
        await database.stop();
      },
    });
    const trial = new Trial(shape);
    try {
      await trial.stock();
      const visited = await trial.api.product({ onHand: 1_000_000 });
      const load = trial.load(thinkMs);
      const visits = new Visits(shape.baseUrl, 6, visited);
      const goOn = async (): Promise<void> => {
        const before = acknowledged(load.attempts).length;
        await load.until(() => acknowledged(load.attempts).length > before + 100);
      };
      await goOn();
      const migration = new AppProcess('migrate', { DATABASE_URL: database.url });
      migration.spawn();
      expect([await migration.exit, migration.log]).toEqual([{ code: 0, signal: null }, migration.log]);
      await goOn();
      await shape.service('new').restart();
      expect(shape.service('new').log).not.toContain('migrated');
      await goOn();
      expect(await shape.service('old').kill('SIGTERM')).toEqual({ code: 0, signal: null });
      await goOn();
      await visits.end();
      expectAnswers(await load.end(), [201, 409]);
      expect(visits.failures).toEqual([]);
      await visits.expectKept(trial.api, trial.ledger, 1_000_000);
      await trial.settle();
    } finally {
      await shape.stop();
    }
  });
});
