import { expect } from '@jest/globals';
import { Api } from '../support/api.js';
import type { NatsProxy } from '../support/nats-proxy.js';
import type { Caught } from '../support/postgres-proxy.js';
import { randomOf } from '../support/fresh.js';
import { eventually } from '../support/eventually.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape, type ProxiedShapeName } from '../support/proxied-shapes.js';
import { lapseLeases } from '../support/tables.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';
import type { CrashPoint } from './crash-points.js';
import { Shoppers } from './shoppers.js';

/** What came of a crash, for people to read. */
export interface Aftermath {
  at: string;
  /** Orders that were under way when the process was killed, and orders that a repeat found instead of placing them. */
  inFlight: number;
  foundAgain: number;
  placed: number;
  refused: number;
  changed: number;
  ms: number;
}

/** A system that is killed at one point after the other, and has to come back whole every time. */
export class CrashTest {
  private shape: ProxiedShape | undefined;

  constructor(
    private readonly name: ProxiedShapeName,
    private readonly environment: Record<string, string> = {},
    /** Where the events go that are published, if any. */
    private readonly nats?: NatsProxy,
  ) {}

  /** Shoppers at work; at the statement, somewhere in the middle, the process is killed and started again. */
  async crashAt(point: CrashPoint): Promise<Aftermath> {
    const startedAt = Date.now();
    this.shape ??= await startProxied(this.name, this.environment);
    try {
      return { ...(await crash(this.shape, point, this.nats)), ms: Date.now() - startedAt };
    } catch (error) {
      // What one crash has broken is not to be laid at the door of the next.
      await this.stop().catch(() => undefined);
      throw error;
    }
  }

  async stop(): Promise<void> {
    const { shape } = this;
    this.shape = undefined;
    await shape?.stop();
  }
}

const crash = async (
  shape: ProxiedShape,
  { step, what, of, by, victim, moment }: CrashPoint,
  nats: NatsProxy | undefined,
): Promise<Omit<Aftermath, 'ms'>> => {
  const random = randomOf(`${shape.name} ${what} ${victim} ${moment}`);
  const ledger = new Ledger(shape);
  const api = new Api(shape.baseUrl);
  const receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
  const shoppers = new Shoppers(api, random);
  const occurrence = random.integer(1, 4);
  const catching = {
    Postgres: () => shape.proxies[by].next({ statement: what, moment }, occurrence),
    NATS: () => nats!.next({ subject: what, moment }, occurrence),
    merchant: () => receiver.next(occurrence),
  }[of]();
  const killed = shape.service(shape.name === 'split' ? victim : 'monolith');

  await shoppers.start();
  const caught = await catching;
  const inFlight = shoppers.inFlight.length;
  await killed.kill('SIGKILL');
  if (of === 'Postgres' && moment === 'after') expect(caught).toMatchObject({ outcome: 'committed' });
  // What another process has sent goes on, although nobody waits for it any more.
  if (victim !== by) (caught as Caught).pass();
  else caught.cut();
  await killed.restart();
  await lapseLeases(await shape.databaseUrls());
  await shoppers.finish();
  const kept = shoppers.placements.filter((it) => it.outcome === 201).length;
  const refused = shoppers.placements.filter((it) => it.outcome === 409).length;
  await shoppers.repeat();

  await ledger.expectInvariants({ log: shoppers, holdsMayWait: false });
  // At least once, whoever was killed while telling it.
  await eventually(async () => expect(await receiver.differences(await shape.databaseUrls())).toEqual([]));
  await receiver.stop();
  expect(kept).toBeGreaterThan(0);
  // An order that was recorded, and not acknowledged, is found by its key.
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
