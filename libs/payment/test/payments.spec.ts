import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { limits, type PaymentOutcome, type PaymentRequest } from '#contracts';
import { migrateDatabase } from '#database';
import { twoInstances, type TwoInstances } from '#testing';
import { NothingAside1764000000050 } from '../migrations/3-nothing-aside.js';
import type { PaymentProvider } from '../src/use-cases/perform-operations.js';
import {
  authorise,
  brokenInvariants,
  capture,
  newTenant,
  refund,
  reverse,
  startInstance,
  type Instance,
} from './payment-under-test.js';

let instances: TwoInstances<Instance>;
let one: Instance;
let two: Instance;
let tenant: string;
let order: string;

beforeAll(async () => {
  instances = await twoInstances(startInstance);
  ({ one, two } = instances);
});
afterAll(() => instances?.stop());

beforeEach(() => {
  tenant = newTenant();
  order = randomUUID();
});
afterEach(async () => expect(await brokenInvariants(one, tenant)).toEqual([]));

const perform = async (...requests: PaymentRequest[]): Promise<PaymentOutcome[]> =>
  one.performOperations.execute(tenant, requests);
const moved = (amount_minor: number): PaymentOutcome => ({ outcome: 'succeeded', amount_minor });
const refused = (reason: string): PaymentOutcome => ({ outcome: 'refused', reason });
const payment = async () => (await one.payments.find(tenant, order))!;

describe('an operation on a payment', () => {
  it('is listed up to the limit of a reply; refused ones are left out before those that moved money', async () => {
    await perform(authorise(order, 500), capture(order, 100));
    await perform(...Array.from({ length: limits.paymentOperations }, () => refund(order, 200)));
    const last = refund(order, 300);
    await perform(last);
    const { operations } = await payment();
    expect(operations).toHaveLength(limits.paymentOperations);
    // Operations that moved money are never left out.
    expect(operations.slice(0, 3).map((it) => it.state)).toEqual(['succeeded', 'succeeded', 'refused']);
    expect(operations.at(-1)).toMatchObject({ operation_id: last.operation_id, state: 'refused' });
  });

  it('is listed while it is open, even after as many later ones as a reply holds', async () => {
    const begun = capture(order, 1);
    await perform(authorise(order, 5_000));
    await one.with({ perform: () => Promise.reject(new Error('the connection is gone')) }).execute(tenant, [begun]);
    await perform(...Array.from({ length: limits.paymentOperations }, () => capture(order, 1)));
    const { operations } = await payment();
    expect(operations).toHaveLength(limits.paymentOperations);
    expect(operations[0]).toMatchObject({ operation_id: begun.operation_id, state: 'open' });
    expect(await perform(begun)).toEqual([moved(1)]);
  });

  it('is performed in the order given, and listed', async () => {
    expect(await perform(authorise(order, 500), capture(order, 300), refund(order, 100), capture(order))).toEqual(
      [500, 300, 100, 200].map(moved),
    );
    const { operations, ...rest } = await payment();
    expect(rest).toMatchObject({ amount_minor: 500, authorised_minor: 500, captured_minor: 500, refunded_minor: 100 });
    expect(operations.map(({ kind, amount_minor, state }) => [kind, amount_minor, state])).toEqual(
      expect.arrayContaining([
        ['authorise', 500, 'succeeded'],
        ['capture', 300, 'succeeded'],
        ['refund', 100, 'succeeded'],
        ['capture', 200, 'succeeded'],
      ]),
    );
  });

  it('is performed once when both instances get it many times', async () => {
    const requests = [authorise(order, 500), capture(order), refund(order, 500)];
    for (const request of requests) {
      const answers = await Promise.all(
        Array.from({ length: 10 }, (_, index) =>
          (index % 2 === 0 ? one : two).performOperations.execute(tenant, [request]),
        ),
      );
      expect(new Set(answers.map((it) => JSON.stringify(it)))).toEqual(new Set([JSON.stringify([moved(500)])]));
    }
  });

  it('is not taken for one of another tenant with the same ids', async () => {
    const requests = [authorise(order, 500), capture(order, 400)];
    expect(await one.performOperations.execute(newTenant(), requests)).toEqual([moved(500), moved(400)]);
    const smaller = requests.map((it) => ({ ...it, amount_minor: 300 }));
    expect(await perform(...smaller)).toEqual([moved(300), moved(300)]);
  });

  it('with an amount of zero succeeds without asking the provider', async () => {
    const nobody = one.with({ perform: () => Promise.reject(new Error('asked')) });
    const requests = [authorise(order, 0), capture(order), reverse(order)];
    expect(await nobody.execute(tenant, requests)).toEqual([0, 0, 0].map(moved));
  });

  it('is refused if there is nothing to capture or refund', async () => {
    expect(await perform(capture(order), refund(order, 1))).toEqual([
      refused('not-authorised'),
      refused('not-captured'),
    ]);
    const declined = authorise(order, 500, 'tok_declined');
    expect(await perform(declined, capture(order, 1), declined)).toEqual([
      refused('card-declined'),
      refused('not-authorised'),
      refused('card-declined'),
    ]);
    expect(await perform(authorise(order, 500))).toEqual([refused('authorised-already')]);
  });

  it('never captures more than authorised or refunds more than captured under concurrent requests', async () => {
    await perform(authorise(order, 1_000));
    const race = async (requests: PaymentRequest[]): Promise<number> => {
      const answers = await Promise.all(
        requests.map((it, index) => (index % 2 === 0 ? one : two).performOperations.execute(tenant, [it])),
      );
      return answers.flat().filter((it) => it.outcome === 'succeeded').length;
    };
    expect(await race(Array.from({ length: 20 }, () => capture(order, 300)))).toBe(3);
    expect(await race(Array.from({ length: 20 }, () => refund(order, 200)))).toBe(4);
    expect(await payment()).toMatchObject({ captured_minor: 900, refunded_minor: 800 });
  });
});

describe('a capture of the whole rest', () => {
  it.each(['capture', 'refund'] as const)('captures what an open %s leaves, once', async (kind) => {
    await perform(authorise(order, 1_000), capture(order, 200));
    // The worker was killed after the provider got the request.
    const dead: PaymentProvider = {
      perform: async (...asked) => {
        await one.simulated.perform(...asked);
        throw new Error('the connection is gone');
      },
    };
    const under = kind === 'capture' ? capture(order, 300) : refund(order, 100);
    expect(await one.with(dead).execute(tenant, [under])).toMatchObject([{ outcome: 'open' }]);
    const left = kind === 'capture' ? 500 : 800;
    // While the provider cannot be asked, it stays open and reserves nothing.
    const down: PaymentProvider = { perform: () => Promise.reject(new Error('down')) };
    const all = capture(order);
    for (let time = 0; time < 2; time += 1)
      expect(await one.with(down).execute(tenant, [all])).toMatchObject([{ outcome: 'open' }]);
    expect(await perform(all)).toEqual([moved(left)]);
    expect(await perform(all, capture(order))).toEqual([moved(left), moved(0)]);
    expect(await payment()).toMatchObject({ authorised_minor: 1_000, captured_minor: 1_000 });
    expect(await perform(reverse(order))).toEqual([moved(kind === 'capture' ? 1_000 : 900)]);
  });
});

describe('an amount that an older version set aside for a waiting capture', () => {
  it('is available again after the migration, while that of an open capture stays reserved', async () => {
    const other = randomUUID();
    await perform(authorise(order, 1_000), authorise(other, 1_000));
    const left: PaymentProvider = { perform: () => Promise.reject(new Error('the connection is gone')) };
    await one.with(left).execute(tenant, [capture(order, 300)]);
    await one.sql.query(
      {
        name: 'test-set-aside',
        text: 'UPDATE payment.payments SET capturing_minor = capturing_minor + 700 WHERE tenant_id = $1',
      },
      [tenant],
    );
    const notYet = `DELETE FROM payment.migrations WHERE name LIKE 'NothingAside%'`;
    await one.sql.query({ name: 'test-not-yet', text: notYet }, []);
    const database = { name: 'payment', url: instances.url, schema: 'payment', entities: [] };
    await migrateDatabase({ ...database, migrations: [NothingAside1764000000050] });
    expect(await perform(capture(order, 701))).toEqual([refused('exceeds-authorised')]);
    expect(await perform(capture(order))).toEqual([moved(700)]);
    expect(await payment()).toMatchObject({ captured_minor: 1_000 });
    expect(await perform(reverse(other))).toEqual([moved(1_000)]);
  });
});

describe('a reversal', () => {
  it('voids what was not captured and refunds what was', async () => {
    await perform(authorise(order, 500));
    expect(await perform(reverse(order))).toEqual([moved(500)]);
    expect(await payment()).toMatchObject({ authorised_minor: 0, reversed: true });
    const [before, captured] = [order, randomUUID()];
    await perform(authorise(captured, 500), capture(captured, 400), refund(captured, 100));
    expect(await perform(reverse(captured))).toEqual([moved(300)]);
    expect(await perform(capture(captured), capture(before))).toEqual([refused('reversed'), refused('reversed')]);
    expect(await perform(reverse(captured), reverse(before))).toEqual([moved(0), moved(0)]);
  });

  it('that comes before the authorisation makes it be refused', async () => {
    const late = authorise(order, 500);
    const request = reverse(order);
    expect(await perform(request)).toEqual([moved(0)]);
    expect(await perform(late, request)).toEqual([refused('reversed'), moved(0)]);
  });

  it('that races with an authorisation leaves nothing authorised', async () => {
    for (let round = 0; round < 30; round += 1) {
      const id = randomUUID();
      const [authorisation, reversal] = [authorise(id, 500), reverse(id)];
      const [, answer] = await Promise.all([
        one.performOperations.execute(tenant, [authorisation]),
        two.performOperations.execute(tenant, [reversal]),
      ]);
      if (answer[0]!.outcome === 'open') await two.performOperations.execute(tenant, [reversal]);
      expect(await perform(authorisation, capture(id, 1))).toMatchObject([{}, refused('reversed')]);
      // A payment that was reversed before it began has no amount and no method.
      const found = await one.payments.find(tenant, id);
      expect(found?.authorised_minor ?? 0).toBe(0);
    }
  });

  /** Begins an authorisation. @returns a function that has the provider answer, for the outcome */
  const heldUp = async (isCarriedOut: boolean): Promise<() => Promise<PaymentOutcome[]>> => {
    const [asked, goOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const slow: PaymentProvider = {
      perform: async (...given) => {
        if (isCarriedOut) await one.simulated.perform(...given);
        asked.resolve();
        await goOn.promise;
        return one.simulated.perform(...given);
      },
    };
    const outcome = one.with(slow).execute(tenant, [authorise(order, 500)]);
    await asked.promise;
    return () => {
      goOn.resolve();
      return outcome;
    };
  };

  it.each(['before', 'after'])(
    'that overtakes an authorisation %s the provider carries it out voids it',
    async (when) => {
      const answer = await heldUp(when === 'after');
      expect(await two.performOperations.execute(tenant, [reverse(order)])).toEqual([moved(500)]);
      expect(await answer()).toEqual([moved(500)]);
      expect(await payment()).toMatchObject({ authorised_minor: 0, reversed: true });
      expect(await perform(capture(order, 1))).toEqual([refused('reversed')]);
    },
  );

  it('that finds an authorisation open and the provider down stays open, and voids it when repeated', async () => {
    const answer = await heldUp(false);
    const down: PaymentProvider = { perform: () => Promise.reject(new Error('down')) };
    const reversal = reverse(order);
    expect(await two.with(down).execute(tenant, [reversal])).toMatchObject([{ outcome: 'open' }]);
    expect(await answer()).toEqual([moved(500)]);
    expect(await perform(capture(order, 1))).toEqual([refused('reversed')]);
    expect(await two.performOperations.execute(tenant, [reversal])).toEqual([moved(500)]);
    expect(await payment()).toMatchObject({ authorised_minor: 0, reversed: true });
  });

  it('reverses an authorisation whose worker died before it stored the answer of the provider', async () => {
    const dead: PaymentProvider = {
      perform: async (...asked) => {
        await one.simulated.perform(...asked);
        throw new Error('the connection is gone');
      },
    };
    const authorisation = authorise(order, 500);
    expect(await one.with(dead).execute(tenant, [authorisation])).toMatchObject([{ outcome: 'open' }]);
    expect(await perform(reverse(order))).toEqual([moved(500)]);
    expect(await payment()).toMatchObject({ authorised_minor: 0, reversed: true });
  });
});

describe('a provider that does not answer', () => {
  it('is asked again under the same operation, and charges once', async () => {
    const lost = authorise(order, 500, 'tok_lost');
    expect(await perform(lost)).toEqual([{ outcome: 'open', reason: 'the answer was lost' }]);
    expect(await perform(lost)).toEqual([moved(500)]);
  });

  it('charges once if it sends its notification twice before it answers', async () => {
    expect(await perform(authorise(order, 500, 'tok_notified_before'), capture(order, 200))).toEqual([
      moved(500),
      moved(200),
    ]);
    const { authorised_minor, captured_minor, operations } = await payment();
    expect({ authorised_minor, captured_minor }).toEqual({ authorised_minor: 500, captured_minor: 200 });
    expect(operations.map((it) => it.state)).toEqual(['succeeded', 'succeeded']);
  });

  it('settles the operation by notifications sent later, twice and out of order', async () => {
    const undecided = { outcome: 'open', reason: 'the provider has not decided yet' };
    expect(await perform(authorise(order, 500, 'tok_notified_after'))).toEqual([undecided]);
    const until = async (kind: string): Promise<void> => {
      const isSettled = async () =>
        (await payment()).operations.some((it) => it.kind === kind && it.state === 'succeeded');
      while (!(await isSettled())) await setTimeout(5);
    };
    // The request is not repeated: the notification alone settles it.
    await until('authorise');
    expect(await perform(capture(order, 200))).toEqual([undecided]);
    await until('capture');
    expect(await perform(refund(order, 50))).toEqual([undecided]);
    await until('refund');
    // The second notification of the authorisation comes after all of that.
    await setTimeout(1_600);
    expect(await payment()).toMatchObject({
      ...{ authorised_minor: 500, captured_minor: 200, refunded_minor: 50 },
    });
  });

  it('at all leaves the operation open, before the caller gives up', async () => {
    const asked = Promise.withResolvers<void>();
    const silent: PaymentProvider = {
      perform: () => {
        // From here on, the only timer is the one that waits for this answer.
        jest.useFakeTimers({ doNotFake: ['performance', 'Date', 'setImmediate', 'nextTick', 'queueMicrotask'] });
        asked.resolve();
        return new Promise<never>(() => {});
      },
    };
    const outcome = one.with(silent).execute(tenant, [authorise(order, 500)]);
    try {
      await asked.promise;
      jest.runOnlyPendingTimers();
    } finally {
      jest.useRealTimers();
    }
    expect(await outcome).toEqual([{ outcome: 'open', reason: 'simulated did not answer' }]);
    expect(await perform(reverse(order))).toMatchObject([{ outcome: 'succeeded' }]);
  });

  it('does not hold up payments through another provider', async () => {
    const down: PaymentProvider = { perform: () => Promise.reject(new Error('down')) };
    const invoice = { ...authorise(randomUUID(), 500), method: 'manual' as const };
    expect(await one.with(down).execute(tenant, [authorise(order, 500), invoice])).toEqual([
      { outcome: 'open', reason: 'simulated did not answer' },
      moved(500),
    ]);
    expect(await perform(reverse(order))).toMatchObject([{ outcome: 'succeeded' }]);
  });
});
