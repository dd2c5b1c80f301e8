import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startShape, type ShapeName } from '../support/shapes.js';
import { cacheTests } from './suite/cache.js';
import { documentTests } from './suite/documents.js';
import { eventTests } from './suite/events.js';
import { hostileInputTests } from './suite/hostile-input.js';
import { idempotencyTests } from './suite/idempotency.js';
import { listTests } from './suite/lists.js';
import { paymentTests } from './suite/payments.js';
import { orderTests } from './suite/orders.js';
import { productTests } from './suite/products.js';
import { salesTests } from './suite/sales.js';
import { stockTests } from './suite/stock.js';
import { transitionTests } from './suite/transitions.js';
import { webhookTests } from './suite/webhooks.js';
import type { World } from './suite/world.js';

type Part = (world: World) => void;

const all: readonly Part[] = [
  documentTests,
  orderTests,
  idempotencyTests,
  stockTests,
  productTests,
  listTests,
  transitionTests,
  paymentTests,
  eventTests,
  salesTests,
  webhookTests,
  cacheTests,
  hostileInputTests,
];

/** The parts that depend on how requests and events travel. */
const ofTransport: ReadonlySet<Part> = new Set([orderTests, idempotencyTests, eventTests]);

/**
 * For a further shape, when others run the whole suite: the parts that depend on the transport, and two of the others,
 * chosen by the seed. With `npm run test:shapes`, all of them.
 */
export const partsFor = (name: ShapeName): readonly Part[] => {
  if ('fullRun' in globalThis) return all;
  const others = all.filter((it) => !ofTransport.has(it));
  const chosen = new Set(randomOf(`parts for ${name}`).shuffled(others).slice(0, 2));
  return all.filter((it) => ofTransport.has(it) || chosen.has(it));
};

/** The end-to-end suite against one base URL. It is the same for every shape, wherever the modules run. */
export const describeCleave = (name: ShapeName, parts: readonly Part[] = all): void => {
  describe(`Cleave as ${name}`, () => {
    const world = {} as World;

    beforeAll(async () => {
      const shape = await startShape(name);
      Object.assign(world, { shape, api: new Api(shape.baseUrl), ledger: new Ledger(shape) });
    });

    afterAll(() => world.shape?.stop());

    for (const part of parts) part(world);

    describe('after all tests above', () => {
      it('the stored data satisfies the invariants', () => world.ledger.expectInvariants());

      it('no log contains an error, nor a warning from Node or a library', () => {
        const lines = world.shape.log().split('\n');
        const logged = lines.filter((it) => it.startsWith('{'));
        expect(logged.length).toBeGreaterThan(0);
        expect(logged.filter((it) => /^\{"level":"(?:error|fatal)"/.test(it))).toEqual([]);
        // Lines that our logger did not write come from Node or a library.
        expect(lines.filter((it) => !it.startsWith('{') && /error|exception|warning/i.test(it))).toEqual([]);
      });
    });
  });
};
