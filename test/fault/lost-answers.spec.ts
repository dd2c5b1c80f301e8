import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { setTimeout } from 'node:timers/promises';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { Shoppers } from './shoppers.js';

const shapes = ['one database', 'two databases'] as const;

/** Each runs in one shape, chosen by the seed; with `npm run test:crash` in both. */
const lostAnswersIn = (name: (typeof shapes)[number]) =>
  randomOf('lost answers')
    .shuffled(lostAnswers)
    .filter((_, at) => 'fullRun' in globalThis || at % shapes.length === shapes.indexOf(name));

const lostAnswers = [
  ['Reserve', 'inventory-reserve', 'inventory', 'sent'],
  ['Reserve', 'inventory-reserve', 'inventory', 'after'],
  ['Record', 'order-record', 'order', 'sent'],
  ['Record', 'order-record', 'order', 'after'],
  ['Change', 'order-save', 'order', 'sent'],
  ['Deliver', 'inventory-settle', 'inventory', 'sent'],
  ['Checkpoint', 'orders-checkpoints-keep', 'order', 'sent'],
  ['Settle', 'payment-settle', 'payment', 'sent'],
  ['Move', 'order-sagas-move', 'order', 'sent'],
  ['Count', 'sales-add', 'sales', 'sent'],
] as const;

describe.each(shapes)('connections to Postgres that fail under load: %s', (name) => {
  let shape: ProxiedShape;

  const shopWhile = async (title: string, faults: (shoppers: Shoppers) => Promise<void>): Promise<Shoppers> => {
    const shoppers = new Shoppers(new Api(shape.baseUrl), randomOf(title));
    await shoppers.start();
    await faults(shoppers);
    await shoppers.finish();
    await shoppers.repeat();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
    return shoppers;
  };

  beforeAll(async () => {
    shape = await startProxied(name);
  });
  afterEach(() => {
    for (const proxy of Object.values(shape.proxies)) proxy.refuse(false);
  });
  afterAll(() => shape?.stop());

  it.each(lostAnswersIn(name))(
    'the response to %s is lost repeatedly (%s of %s, %s): the invariants hold, and callers get at worst 503',
    async (_, statement, by, moment) => {
      let lost = 0;
      const shoppers = await shopWhile(`${name} ${statement} ${moment}`, async (shoppers) => {
        const stop = shape.proxies[by].each({ statement, moment }, 3, ({ cut }) => {
          lost += 1;
          cut();
        });
        await shoppers.until(() => lost >= 5);
        stop();
      });
      // A lost response leads to a retry or to 503, never to another error.
      const outcomes = new Set(shoppers.placements.map((it) => it.outcome));
      expect([201, 409, 503]).toEqual(expect.arrayContaining([...outcomes]));
    },
  );

  it('all of them are cut and new ones are refused for a while: the invariants hold', async () => {
    await shopWhile(`${name} cut`, async (shoppers) => {
      for (let times = 1; times <= 3; times += 1) {
        const answered = (): number => shoppers.placements.filter((it) => it.outcome === 201).length;
        const before = answered();
        await shoppers.until(() => answered() > before + 5);
        const proxies = new Set(Object.values(shape.proxies));
        for (const proxy of proxies) {
          proxy.refuse();
          proxy.cutAll();
        }
        await setTimeout(200);
        for (const proxy of proxies) proxy.refuse(false);
      }
    });
  });

  it('all of them are slow: the invariants hold', async () => {
    await shopWhile(`${name} slow`, async (shoppers) => {
      for (const proxy of Object.values(shape.proxies)) proxy.delayMs = 20;
      await shoppers.until(() => shoppers.placements.filter((it) => it.outcome === 201).length > 20);
      for (const proxy of Object.values(shape.proxies)) proxy.delayMs = 0;
    });
  });
});
