import { setTimeout } from 'node:timers/promises';
import { natsOrSkip } from '#testing';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { randomOf } from '../support/fresh.js';
import { startScaled, transports } from '../support/scaled-shapes.js';
import { acknowledged, expectAnswers, Trial } from '../support/trial.js';
import type { Load } from '../support/load.js';
import { Visits } from '../support/visits.js';

/** Pause between the requests of each caller: all orders are repeated at the end, and thousands would only take time. */
const thinkMs = 100;

const modules = ['order', 'inventory', 'payment', 'cache'] as const;
const all = 'fullRun' in globalThis;
/** Two modules chosen by the seed, or all with `npm run test:crash`; and always the gateway, which has no balancer. */
const some = randomOf('rolling')
  .shuffled(modules)
  .slice(0, all ? 4 : 2);
const rolled = ['gateway', ...some];
const killed = all ? ['gateway', ...modules] : some.slice(0, 1);
const isNatsThere = (await natsOrSkip(describe)) === describe;
/** The transport between the modules: one chosen by the seed, or all. */
const over = randomOf('rolling over')
  .shuffled(transports.filter((it) => it !== 'nats' || isNatsThere))
  .slice(0, all ? 3 : 1);
const visitors = 6;
/** Eight starts of services take minutes on a busy machine. */
const withinMs = 600_000;
/** Time until the gateway notices that an instance has ended; requests sent meanwhile are lost. */
const hearsOfItMs = 20;

describe.each(over)('instances over %s that start and stop under load', (transport) => {
  let trial: Trial;
  /** A product with plenty of stock, which the visits change. */
  let visited: string;
  beforeAll(async () => {
    trial = new Trial(await startScaled(undefined, transport));
    await trial.stock();
    visited = await trial.api.product({ onHand: 1_000_000 });
  });
  afterEach(() => trial?.rest());
  afterAll(() => trial?.shape.stop());

  const shelf = async (): Promise<number> => (await trial.api.stock(visited)).on_hand;
  const goOn = async (load: Load, count = 50): Promise<void> => {
    const before = acknowledged(load.attempts).length;
    await load.until(() => acknowledged(load.attempts).length > before + count);
  };

  it(
    'are added, drained and restarted one by one without a failed request',
    async () => {
      const load = trial.load(thinkMs);
      const onHand = await shelf();
      const visits = new Visits(trial.shape.entrances, visitors, visited);
      await goOn(load);
      for (const module of rolled) {
        const [first, second] = [1, 2].map((it) => trial.shape.service(`${module}-${it}`));
        await second!.restart();
        await goOn(load);
        expect(await first!.kill('SIGTERM')).toEqual({ code: 0, signal: null });
        await goOn(load);
        await first!.restart();
        await goOn(load);
      }
      await visits.end();
      expectAnswers(await load.end(), [201, 409]);
      expect(visits.failures).toEqual([]);
      for (const service of ['products', 'stock', 'cache', 'orders'])
        expect(visits.answered[service]).toBeGreaterThan(10);
      await visits.expectKept(trial.api, trial.ledger, onHand);
      await trial.settle();
    },
    withinMs,
  );

  it.each(killed)(
    'fail only requests in flight when %s is killed, and neither lose nor duplicate orders',
    async (module) => {
      const [first, second] = [1, 2].map((it) => trial.shape.service(`${module}-${it}`));
      if (!second!.isRunning) await second!.restart();
      const load = trial.load(thinkMs);
      const onHand = await shelf();
      const visits = new Visits(trial.shape.entrances, visitors, visited);
      await goOn(load);
      const ends: (number | string)[] = module === 'gateway' ? ['ECONNRESET', 'EPIPE'] : [503];
      const underWay = load.inFlight.length + visits.inFlight;
      const begunBefore = load.attempts.length + visits.begun;
      await first!.kill('SIGKILL');
      await setTimeout(hearsOfItMs);
      const begunMeanwhile = load.attempts.length + visits.begun - begunBefore;
      await goOn(load, 100);
      await visits.end();
      const attempts = await load.end();
      expectAnswers(attempts, [201, 409, ...ends]);
      const failed = attempts.filter((it) => ends.includes(it.outcome!));
      for (const it of visits.failures) expect(it).toMatch(new RegExp(`: (?:${ends.join('|')}) `));
      expect([...failed, ...visits.failures].length).toBeLessThanOrEqual(underWay + begunMeanwhile);
      await first!.restart();
      await visits.expectKept(trial.api, trial.ledger, onHand);
      await trial.settle();
    },
    withinMs,
  );
});
