import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { orSkip, startRedis, testDatabase } from '#testing';
import { AppProcess } from '../support/app-process.js';
import { startScaled } from '../support/scaled-shapes.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { allAt } from '../support/tables.js';
import { acknowledged, expectAnswers, Trial } from '../support/trial.js';
import { Visits } from '../support/visits.js';
import { dumpUnderWay } from './dump.js';
import { compiled, lastRelease } from './last-release.js';

const from = lastRelease();
const describeFromRelease = orSkip(
  from !== undefined,
  describe,
  'The release to update from is not in this clone: git fetch --tags --unshallow',
);

const buildTimeoutMs = 600_000;
/** About two dozen starts, one after the other, on a busy machine. */
const rollTimeoutMs = 600_000;
const thinkMs = 250;

/** The old version as a single process, and a second slot for the new one. */
const startMonoliths = async (home: string): Promise<Shape> => {
  const [redis, database] = await Promise.all([startRedis(), testDatabase()]);
  const [gateway, one, two] = await servicePorts(3);
  const places = `http://127.0.0.1:${one},http://127.0.0.1:${two}`;
  const modules = ['ORDER', 'INVENTORY', 'CACHE', 'PAYMENT', 'SALES', 'WEBHOOKS'];
  const own = { DATABASE_URL: database.url, CACHE_REDIS_URL: redis.url, CACHE_REDIS_DEADLINE_MS: '5000' };
  return startPlan('updated', {
    services: [
      {
        ...{ app: 'gateway', port: gateway! },
        environment: Object.fromEntries(modules.map((module) => [`${module}_URL`, places])),
      },
      { ...{ app: 'monolith', name: 'monolith-1', port: one!, home }, environment: own },
      { ...{ app: 'monolith', name: 'monolith-2', port: two!, isLater: true }, environment: own },
    ],
    databaseUrls: () => Promise.resolve(allAt(database.url)),
    release: async () => {
      await redis.stop();
      await database.stop();
    },
  });
};

/**
 * The modules are updated in this order, and then rolled back, so that of two neighbours each is the newer one at some
 * time. Order is updated before inventory, so it calls an inventory that may not know new operations.
 */
const shapes: [string, (home: string) => Promise<Shape>, string[]][] = [
  ['one process', startMonoliths, ['monolith']],
  ['services over TCP', startScaled, ['gateway', 'order', 'inventory', 'payment', 'cache', 'sales', 'webhooks']],
];

/** By default only the one that takes less than a minute; both with `npm run test:update`. */
const tried = 'fullRun' in globalThis ? shapes : shapes.slice(0, 1);

describeFromRelease(`an update from ${from ?? 'the last release'}`, () => {
  let home: string;
  beforeAll(() => {
    home = compiled(from!);
  }, buildTimeoutMs);
  afterAll(() => {
    if (home) rmSync(home, { recursive: true });
  });

  it.each(tried)(
    'of %s: migrates under the old version during a dump, rolls out and back, and no request fails',
    async (_name, start, modules) => {
      const shape = await start(home);
      const trial = new Trial(shape);
      let visits: Visits | undefined;
      try {
        await trial.stock();
        const visited = await trial.api.product({ onHand: 1_000_000 });
        const load = trial.load(thinkMs);
        visits = new Visits(shape.entrances, 6, visited);
        const goOn = async (count = 30): Promise<void> => {
          const before = acknowledged(load.attempts).length;
          await load.until(() => acknowledged(load.attempts).length > before + count);
        };
        await goOn();
        const { order: url } = await shape.databaseUrls();
        const dump = await dumpUnderWay(url);
        const migration = new AppProcess('migrate', { DATABASE_URL: url });
        migration.spawn();
        await goOn(100);
        await dump.end();
        expect([await migration.exit, migration.log]).toEqual([{ code: 0, signal: null }, migration.log]);
        await goOn();
        const replace = async (module: string, one: number, other: number): Promise<void> => {
          await shape.service(`${module}-${other}`).restart();
          await goOn();
          expect(await shape.service(`${module}-${one}`).kill('SIGTERM')).toEqual({ code: 0, signal: null });
          await goOn();
        };
        for (const module of modules) await replace(module, 1, 2);
        for (const module of modules) expect(shape.service(`${module}-2`).log).not.toContain('migrated');
        for (const module of modules) await replace(module, 2, 1);
        await visits.end();
        expectAnswers(await load.end(), [201, 409]);
        expect(visits.failures).toEqual([]);
        await visits.expectKept(trial.api, trial.ledger, 1_000_000);
        await trial.settle();
      } finally {
        await Promise.all([trial.stopLoads(), visits?.end()]);
        await shape.stop();
      }
    },
    rollTimeoutMs,
  );
});
