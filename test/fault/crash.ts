import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { eventually, testSeed } from '#testing';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import type { NatsProxy } from '../support/nats-proxy.js';
import { has, wordsOf, type Caught, type Place } from '../support/postgres-proxy.js';
import { startProxied, type ProxiedShape, type ProxiedShapeName } from '../support/proxied-shapes.js';
import { lapseLeases } from '../support/tables.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';
import type { CrashPoint } from './crash-points.js';
import { provocations } from './provocations.js';
import { Shoppers } from './shoppers.js';
import { printTable } from './table.js';

/** The outcome of a crash, as a row of the printed table. */
interface Aftermath {
  at: string;
  /** Orders in flight when the process was killed, and orders that a retry found instead of placing them again. */
  inFlight: number;
  foundAgain: number;
  placed: number;
  refused: number;
  changed: number;
  ms: number;
}

/** Crashes one system at one point after another; it must recover completely every time. */
class CrashTest {
  private readonly table: Aftermath[] = [];
  private shape: ProxiedShape | undefined;

  constructor(
    private readonly name: ProxiedShapeName,
    private readonly environment: Record<string, string>,
    /** The NATS that events are published to, if any. */
    private readonly nats: NatsProxy | undefined,
  ) {}

  /** Kills the process at an occurrence of the step while shoppers are active, and restarts it. */
  async crashAt(point: CrashPoint): Promise<void> {
    const startedAt = Date.now();
    this.shape ??= await startProxied(this.name, this.environment);
    try {
      this.table.push({ ...(await crash(this.shape, point, this.nats)), ms: Date.now() - startedAt });
    } catch (error) {
      // The next crash starts a new system, unaffected by this failure.
      await this.stop().catch(() => undefined);
      throw error;
    }
  }

  print(): void {
    printTable(`crashes with TEST_SEED=${testSeed()}`, this.table);
  }

  async stop(): Promise<void> {
    const { shape } = this;
    this.shape = undefined;
    await shape?.stop();
  }
}

/** Defines a test for each point, in the body of a `describe`; finally prints a table of the outcomes. */
export const crashAtEach = (
  points: readonly CrashPoint[],
  shape: ProxiedShapeName,
  /** Called once, before the first point. */
  setUp: () => { environment: Record<string, string>; nats?: NatsProxy },
): void => {
  let test: CrashTest;

  beforeAll(() => {
    const { environment, nats } = setUp();
    test = new CrashTest(shape, environment, nats);
  });
  afterAll(async () => {
    test?.print();
    await test?.stop();
  });

  it.each(points)('$victim killed $moment $step: nothing is lost or duplicated', (point) => test.crashAt(point));
};

const catchStatement = (
  { what, kind, by, moment, follows }: CrashPoint,
  proxies: ProxiedShape['proxies'],
  occurrence: number,
): Promise<Caught> => {
  const place: Place = { statement: what, moment, ...(follows !== undefined && { follows }) };
  if (kind === undefined) return proxies[by].next(place, occurrence);
  if (what !== 'payment-settle') return proxies[by].next({ ...place, with: has(kind) }, occurrence);
  // `payment-settle` only contains ids; their kinds are taken from `payment-begin`.
  const begun = new Set<string>();
  const forget = proxies[by].each({ statement: 'payment-begin', moment: 'before' }, 1, ({ values, pass }) => {
    const [, ids = [], , kinds = []] = values.map(wordsOf);
    for (const it of ids.filter((_, index) => kinds[index] === kind)) begun.add(it);
    pass();
  });
  const isMeant: Place['with'] = ([, ids = '']) => wordsOf(ids).some((it) => begun.has(it));
  return proxies[by].next({ ...place, with: isMeant }, occurrence).finally(forget);
};

const crash = async (
  shape: ProxiedShape,
  point: CrashPoint,
  nats: NatsProxy | undefined,
): Promise<Omit<Aftermath, 'ms'>> => {
  const { step, what, of, by, victim, moment, isInTransaction = false, provokedBy } = point;
  const random = randomOf(`${shape.name} ${step} ${victim} ${moment}`);
  const ledger = new Ledger(shape);
  const api = new Api(shape.baseUrl);
  const receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
  const shoppers = new Shoppers(api, random);
  // A provoked step occurs once, and a variant of a step is rarer than a step without variants.
  const occurrence = provokedBy === undefined ? random.integer(1, point.kind === undefined ? 4 : 2) : 1;
  const catching = {
    Postgres: () => catchStatement(point, shape.proxies, occurrence),
    NATS: () => nats!.next({ subject: what, moment }, occurrence),
    merchant: () => receiver.next(occurrence),
  }[of]();
  const killed = shape.service(shape.name === 'split' ? victim : 'monolith');

  await shoppers.start();
  const provoke = provokedBy && provocations[provokedBy];
  const [caught, settle] = await Promise.all([
    catching,
    provoke?.({ shape, api, shoppers, isCarriedOut: moment === 'after' }),
  ]);
  const inFlight = shoppers.inFlight.length;
  await killed.kill('SIGKILL');
  if (of === 'Postgres' && moment === 'after')
    expect(caught).toMatchObject({ outcome: isInTransaction ? 'in a transaction' : 'committed' });
  if (of === 'NATS' && moment === 'after') expect(caught).toMatchObject({ outcome: 'kept' });
  // A statement that another process has sent is still executed, although its caller is gone.
  if (victim !== by) (caught as Caught).pass();
  else caught.cut();
  await killed.restart();
  await lapseLeases(await shape.databaseUrls());
  await settle?.();
  await shoppers.finish();
  const kept = shoppers.placements.filter((it) => it.outcome === 201).length;
  const refused = shoppers.placements.filter((it) => it.outcome === 409).length;
  await shoppers.repeat();

  await ledger.expectInvariants({ log: shoppers, holdsMayWait: false });
  // Webhooks are delivered at least once, even if the process was killed while sending them.
  await eventually(async () => expect(await receiver.differences(await shape.databaseUrls())).toEqual([]));
  await receiver.stop();
  expect(kept).toBeGreaterThan(0);
  // A retry finds the recorded but unacknowledged order by its key.
  if (step === 'Record' && moment === 'after') expect(shoppers.replayed).toBeGreaterThan(0);
  return {
    at: `${shape.name}: ${victim} ${moment} ${step} ${occurrence}`,
    inFlight,
    foundAgain: shoppers.replayed,
    placed: kept,
    refused,
    changed: shoppers.changes.filter((it) => it.order).length,
  };
};
