import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import fc from 'fast-check';
import { CleaveError, type PaymentOutcome, type PaymentRequest } from '#contracts';
import { eventually, testDatabase, testSeed, type TestDatabase } from '#testing';
import { PostgresSagas } from '../src/adapters/postgres-sagas.js';
import { cancelOrder, cancelRemaining, fulfilOrder, type Order } from '../src/domain/order.js';
import { moveOf, requestOf as requestOfSaga, type Saga } from '../src/domain/saga-moves.js';
import { SagaDefinitions, definitions, operationIdOf, waitMs } from '../src/domain/sagas.js';
import { ResolveDeadLetters } from '../src/use-cases/resolve-dead-letters.js';
import { MoveMoney, type MoneyMoves } from '../src/use-cases/move-money.js';
import { RunSagas, type Sagas } from '../src/use-cases/run-sagas.js';
import { newTenant, requestOf, startInstance, type Instance } from './order-under-test.js';

let database: TestDatabase;
let one: Instance;
let sagas: PostgresSagas;
let tenant: string;

beforeAll(async () => {
  database = await testDatabase();
  one = await startInstance(database.url);
  sagas = new PostgresSagas(one.sql);
});
afterAll(async () => {
  await one?.stop();
  await database?.stop();
});
afterEach(() => void jest.restoreAllMocks());
beforeEach(() => {
  tenant = newTenant();
  one.stock.onHand.set('mug', 1_000_000);
});

const current = new SagaDefinitions(definitions);

const byCard = { method: 'simulated' as const, token: 'tok_ok' };
const onAccount = { method: 'manual' as const };

const buy = async (at = one, quantity = 1, payment: typeof byCard | typeof onAccount = byCard): Promise<Order> => {
  const request = requestOf({ mug: quantity }, { payment });
  const result = await at.placeOrder.execute(tenant, 'acc', request, null);
  if (!('order' in result)) throw result.refusal;
  return result.order;
};

const rowOf = async ({ order_id }: Order) => {
  type Row = Pick<Saga, 'step' | 'attempts' | 'epoch' | 'data'> & { state: string; lease: string; result: object };
  const [row] = await one.sql.query<Row>(
    {
      name: 'test-saga',
      text: `SELECT step, state, attempts, epoch, due_at, lease_until::text AS lease, data, result FROM orders.sagas
        WHERE saga_id = $1`,
    },
    [order_id],
  );
  return row!;
};
const change = (name: string, set: string, { order_id }: Order) =>
  one.sql.query({ name: `test-saga-${name}`, text: `UPDATE orders.sagas SET ${set} WHERE saga_id = $1` }, [order_id]);
const history = async ({ order_id }: Order) => (await one.orders.history(tenant, order_id)).map((it) => it.type);

/** Runs sagas with this payment module until the condition holds. */
const leading = async (
  perform: (requests: readonly PaymentRequest[]) => PaymentOutcome[] | Promise<PaymentOutcome[]>,
  until: () => Promise<boolean>,
  known = current,
  of: Sagas = sagas,
): Promise<void> => {
  const payment = { perform: async (_: string, requests: readonly PaymentRequest[]) => perform(requests) };
  const running = new RunSagas(of, payment, one.relay, known, 15_000);
  running.onApplicationBootstrap();
  try {
    for (const giveUpAt = Date.now() + 10_000; !(await until()); await setTimeout(10))
      if (Date.now() > giveUpAt) throw new Error('waited in vain');
  } finally {
    await running.beforeApplicationShutdown();
  }
};
const ended = (order: Order) => async () => (await rowOf(order)).state === 'ended';
const done = (requests: readonly PaymentRequest[]): PaymentOutcome[] =>
  requests.map((it) => ({ outcome: 'succeeded', amount_minor: 'amount_minor' in it ? (it.amount_minor ?? 0) : 0 }));

/** Advances the monotonic clock on demand, and sets the wall clock back by as much. */
const clocks = () => {
  const [now, date] = [performance.now.bind(performance), Date.now.bind(Date)];
  let aheadMs = 0;
  jest.spyOn(performance, 'now').mockImplementation(() => now() + aheadMs);
  jest.spyOn(Date, 'now').mockImplementation(() => date() - aheadMs);
  return { ahead: (ms: number) => void (aheadMs += ms) };
};

describe('a saga', () => {
  it('runs all its steps alongside others, and no longer stores the payment token in the end', async () => {
    const orders = await Promise.all(Array.from({ length: 20 }, () => buy()));
    const asked: string[] = [];
    await leading(
      (requests) => {
        asked.push(...requests.map((it) => `${it.order_id} ${it.kind}`));
        return done(requests);
      },
      async () => (await Promise.all(orders.map((it) => ended(it)()))).every(Boolean),
    );
    expect(asked.toSorted()).toEqual(
      orders.flatMap((it) => [`${it.order_id} authorise`, `${it.order_id} capture`]).toSorted(),
    );
    for (const order of orders) {
      expect(await history(order)).toEqual(['placed', 'payment-authorised', 'payment-captured']);
      expect((await rowOf(order)).data).not.toHaveProperty('token');
    }
  });

  it('that payment rejects as invalid does not block others, each of which gets its own outcome', async () => {
    const orders = await Promise.all(Array.from({ length: 9 }, (_, at) => buy(one, at + 1)));
    const [poison, ...others] = orders;
    await leading(
      (requests) => {
        if (requests.some((it) => it.order_id === poison!.order_id))
          throw new CleaveError('invalid-request', 'What is this?');
        return done(requests);
      },
      async () => (await Promise.all(orders.map((it) => ended(it)()))).filter(Boolean).length === 8,
    );
    for (const { order_id, total_minor } of others)
      expect((await one.orders.history(tenant, order_id))[1]).toMatchObject({
        type: 'payment-authorised',
        data: { amount_minor: total_minor },
      });
    expect(await rowOf(poison!)).toMatchObject({ state: 'running', result: { waits_for: expect.any(String) } });
    await change('end', `state = 'ended'`, poison!);
  });

  it('past its payment deadline cancels its order, and reverses a possible payment', async () => {
    const order = await buy();
    await change('late', 'deadline_at = now()', order);
    const asked: string[] = [];
    await leading((requests) => {
      asked.push(...requests.map((it) => it.kind));
      return done(requests);
    }, ended(order));
    expect(asked).toEqual(['reverse']);
    expect(await history(order)).toEqual(['placed', 'payment-declined', 'payment-reversed']);
    expect(await one.orders.find(tenant, order.order_id)).toMatchObject({ status: 'cancelled' });
  });

  it('is claimed if its lease or due time is an hour ahead, as after the database clock was set back', async () => {
    const orders = [await buy(), await buy()];
    await change('leased', `lease_until = now() + interval '1 hour'`, orders[0]!);
    await change('waiting', `due_at = now() + interval '1 hour'`, orders[1]!);
    // Another instance may be configured with a lease this long.
    const taken = await buy();
    await change('taken', `lease_until = now() + interval '5 minutes'`, taken);
    await leading(done, async () => (await Promise.all(orders.map((it) => ended(it)()))).every(Boolean));
    expect(await rowOf(taken)).toMatchObject({ state: 'running', epoch: 0 });
    await change('end', `state = 'ended'`, taken);
  });

  it('is moved only by whoever claimed it last, unless a person had it retried since, and not once it has ended', async () => {
    const order = await buy();
    const claimed = async (): Promise<Saga> =>
      (await sagas.claim(0, 500, current.known, [])).find((it) => it.sagaId === order.order_id)!;
    const ends = async (saga: Saga): Promise<boolean> => {
      const { step, attempts } = saga;
      return (await sagas.move(tenant, [{ saga, step, state: 'ended', attempts, waitMs: 0, result: {} }])).size > 0;
    };
    const [first, second] = [await claimed(), await claimed()];
    expect(await ends(first)).toBe(false);
    await change('stuck', 'attempts = 20', order);
    expect(await sagas.retry(tenant, order.order_id)).toBe(true);
    expect(await ends(second)).toBe(false);
    const third = await claimed();
    expect([await ends(third), await ends(third)]).toEqual([true, false]);
  });

  it('is parked if the goods were handed over before their capture was refused, and does not cancel the order', async () => {
    const order = await buy();
    await leading(
      async (requests) => {
        if (requests.some((it) => it.kind !== 'capture')) return done(requests);
        const asked = { tenant, orderId: order.order_id, expectedVersions: undefined };
        await one.changeOrder.execute(asked, (it, at) => fulfilOrder(it, undefined, at));
        return requests.map(() => ({ outcome: 'refused', reason: 'expired' }));
      },
      async () => (await rowOf(order)).state !== 'running',
    );
    expect(await rowOf(order)).toMatchObject({ state: 'parked', result: { refused_for: 'expired' } });
    expect(await one.orders.find(tenant, order.order_id)).toMatchObject({ status: 'fulfilled' });
    expect(await history(order)).toEqual(['placed', 'payment-authorised', 'fulfilled']);
  });

  it('takes no further step once half of its lease has passed, even if the wall clock is set back', async () => {
    const order = await buy();
    const clock = clocks();
    const asked: string[] = [];
    await leading(
      (requests) => {
        asked.push(...requests.map((it) => it.kind));
        clock.ahead(8_000);
        return done(requests);
      },
      async () => {
        const isThere = (await rowOf(order)).step === 'capture';
        // A further step would be taken at once.
        if (isThere) await setTimeout(200);
        return isThere;
      },
    );
    expect(asked).toEqual(['authorise']);
    await change('end', `state = 'ended'`, order);
  });

  it('is led on while the provider of another tenant does not answer', async () => {
    const stuck = await buy();
    const others: Order[] = [];
    const [asked, answers] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const led = leading(
      async (requests) => {
        if (!requests.some((it) => it.order_id === stuck.order_id)) return done(requests);
        asked.resolve();
        await answers.promise;
        return done(requests);
      },
      // More than once, because these begin after the call that hangs.
      async () => others.length === 2 && (await Promise.all(others.map((it) => ended(it)()))).every(Boolean),
    );
    await asked.promise;
    for (const _ of ['one', 'another']) {
      tenant = newTenant();
      others.push(await buy());
    }
    await eventually(async () => {
      for (const it of others) expect(await rowOf(it)).toMatchObject({ state: 'ended' });
    });
    expect(await rowOf(stuck)).toMatchObject({ state: 'running', step: 'authorise' });
    answers.resolve();
    // The worker does not stop before the answer is stored.
    await led;
    expect(await rowOf(stuck)).toMatchObject({ step: 'capture' });
    await change('end', `state = 'ended'`, stuck);
  });

  it('is stored by at most four updates at once, which leaves connections for orders', async () => {
    const orders: Order[] = [];
    for (let tenants = 0; tenants < 20; tenants += 1) {
      tenant = newTenant();
      orders.push(await buy());
    }
    let [moving, most] = [0, 0];
    const counted: Sagas = {
      claim: (...given) => sagas.claim(...given),
      capturing: (...given) => sagas.capturing(...given),
      untoldCaptures: (...given) => sagas.untoldCaptures(...given),
      move: async (...given) => {
        most = Math.max(most, (moving += 1));
        return sagas.move(...given).finally(() => (moving -= 1));
      },
    };
    const isOver = async () => (await Promise.all(orders.map((it) => ended(it)()))).every(Boolean);
    await leading(done, isOver, current, counted);
    expect(most).toBe(4);
  });

  it('retries an undecided payment under the same operation id', async () => {
    const order = await buy();
    const names = new Set<string>();
    let times = 0;
    await leading((requests) => {
      for (const it of requests) if (it.kind === 'authorise') names.add(it.operation_id);
      times += 1;
      return times < 4 ? requests.map(() => ({ outcome: 'open', reason: 'not decided' })) : done(requests);
    }, ended(order));
    expect(names.size).toBe(1);
  });
});

describe('a purchase whose order is cancelled', () => {
  const cancel = ({ order_id }: Order) =>
    one.changeOrder.execute({ tenant, orderId: order_id, expectedVersions: undefined }, (it, at) =>
      cancelOrder(it, undefined, at),
    );
  const told = async ({ order_id }: Order) =>
    (await one.orders.history(tenant, order_id)).map(({ type, status, data }) => [type, status, data.amount_minor]);
  const whole = (requests: readonly PaymentRequest[]): PaymentOutcome[] =>
    requests.map(() => ({ outcome: 'succeeded', amount_minor: 100 }));
  const open = { outcome: 'open' as const, reason: 'not decided' };
  const untilCancelled = [
    ['placed', 'pending', undefined],
    ['payment-authorised', 'confirmed', 100],
    ['cancelled', 'cancelled', undefined],
  ];

  /** Cancels the order as soon as the capture is requested, so that the answer of payment comes too late. */
  const cancelledWhileCapturing = async (
    perform: (requests: readonly PaymentRequest[]) => PaymentOutcome[],
    until: (order: Order) => () => Promise<boolean>,
  ): Promise<Order> => {
    const order = await buy();
    let isCancelled = false;
    await leading(async (requests) => {
      if (!isCancelled && requests.some((it) => it.kind === 'capture' && it.order_id === order.order_id)) {
        isCancelled = true;
        await cancel(order);
      }
      return perform(requests);
    }, until(order));
    return order;
  };

  it('during the capture records the capture before the reversal', async () => {
    const order = await cancelledWhileCapturing(whole, ended);
    expect(await told(order)).toEqual([
      ...untilCancelled,
      ['payment-captured', 'cancelled', 100],
      ['payment-reversed', 'cancelled', 100],
    ]);
    expect(await one.orders.find(tenant, order.order_id)).toMatchObject({ status: 'cancelled', version: 5 });
  });

  it('during the capture records capture and reversal once each, even if the worker stops between the two', async () => {
    let reversals = 0;
    const order = await cancelledWhileCapturing(
      (requests) => requests.map((it) => (it.kind === 'reverse' && (reversals += 1) > 1 ? open : whole([it])[0]!)),
      (it) => async () => (await history(it)).includes('payment-captured') && (await rowOf(it)).attempts > 0,
    );
    await change('due', 'due_at = now()', order);
    await leading(whole, ended(order));
    expect(await history(order)).toEqual([
      ...['placed', 'payment-authorised', 'cancelled', 'payment-captured', 'payment-reversed'],
    ]);
  });

  it('during the capture records no capture if payment refuses it because of the reversal', async () => {
    let captures = 0;
    const order = await cancelledWhileCapturing(
      (requests) =>
        requests.map((it): PaymentOutcome => {
          if (it.kind !== 'capture') return whole([it])[0]!;
          captures += 1;
          return captures === 1 ? open : { outcome: 'refused', reason: 'reversed' };
        }),
      ended,
    );
    expect(captures).toBe(2);
    expect(await told(order)).toEqual([...untilCancelled, ['payment-reversed', 'cancelled', 100]]);
  });

  it('during the capture records nothing more until the outcome of the capture is known', async () => {
    let captures = 0;
    const order = await cancelledWhileCapturing(
      (requests) => requests.map((it) => (it.kind === 'capture' && (captures += 1) === 2 ? open : whole([it])[0]!)),
      ended,
    );
    expect(captures).toBe(3);
    expect((await history(order)).slice(-2)).toEqual(['payment-captured', 'payment-reversed']);
  });

  it('during a capture on request records the capture before the reversal', async () => {
    const order = await buy(one, 1, onAccount);
    await leading(whole, ended(order));
    const capture = { definition: 'capture', version: 1, step: 'capture' as const };
    const sagaId = randomUUID();
    await sagas.start(tenant, { ...capture, sagaId, orderId: order.order_id, data: { amount_minor: 100 } });
    // A worker that has asked for the capture, and is slow to store the outcome.
    const claimed = await sagas.claim(15_000, 10, current.known, []);
    const captured = claimed.find((it) => it.sagaId === sagaId)!;
    await cancel(order);
    await leading(whole, async () => (await rowOf(order)).attempts > 0 || (await ended(order)()));
    expect(await told(order)).toEqual(untilCancelled);
    await sagas.move(tenant, [moveOf(captured, current.step(captured), whole([requestOfSaga(captured)])[0]!, 0)]);
    await change('due', 'due_at = now()', order);
    await leading(whole, ended(order));
    expect(await told(order)).toEqual([
      ...untilCancelled,
      ['payment-captured', 'cancelled', 100],
      ['payment-reversed', 'cancelled', 100],
    ]);
  });

  it('only for the units that were not fulfilled is not reversed', async () => {
    const order = await buy(one, 2);
    await leading(done, ended(order));
    const request = { tenant, orderId: order.order_id, expectedVersions: undefined };
    await one.changeOrder.execute(request, (it, at) => fulfilOrder(it, [{ product_id: 'mug', quantity: 1 }], at));
    await one.changeOrder.execute(request, (it, at) => cancelRemaining(it, undefined, at));
    expect(await history(order)).toEqual([
      'placed',
      'payment-authorised',
      'payment-captured',
      'fulfilled',
      'cancelled',
    ]);
    expect(await rowOf(order)).toMatchObject({ state: 'ended', step: 'capture' });
  });

  it('before it was authorised or after it was captured asks payment only for the reversal', async () => {
    const captured = await buy();
    await leading(whole, ended(captured));
    const pending = await buy();
    for (const it of [captured, pending]) await cancel(it);
    const asked: string[] = [];
    await leading(
      (requests) => {
        asked.push(...requests.map((it) => it.kind));
        return whole(requests);
      },
      async () => (await ended(captured)()) && (await ended(pending)()),
    );
    expect(asked).toEqual(['reverse', 'reverse']);
    expect((await history(captured)).slice(-3)).toEqual(['payment-captured', 'cancelled', 'payment-reversed']);
    expect(await history(pending)).toEqual(['placed', 'cancelled', 'payment-reversed']);
  });
});

describe('a new version of a saga', () => {
  /** A version in which the money is captured only on request. */
  const upgraded = new SagaDefinitions({
    ...definitions,
    purchase: {
      ...definitions.purchase,
      2: {
        first: 'authorise',
        steps: {
          authorise: {
            succeeded: { entry: 'payment-authorised', next: 'end' },
            refused: { entry: 'payment-declined', next: 'end' },
          },
        },
      },
    },
  });
  let newer: Instance;
  beforeAll(async () => {
    newer = await startInstance(database.url, one.stock, upgraded);
  });
  afterAll(() => newer?.stop());

  it('applies to new sagas, while those begun with the old version finish with its steps', async () => {
    const half = await buy();
    const open = { outcome: 'open' as const, reason: 'not decided' };
    await leading(
      (requests) => requests.map((it) => (it.kind === 'capture' ? open : done([it])[0]!)),
      async () => (await rowOf(half)).step === 'capture' && (await rowOf(half)).attempts > 0,
    );
    await change('due', 'due_at = now()', half);
    const [old, fresh] = [await buy(), await buy(newer)];
    const batches: string[][] = [];
    await leading(
      (requests) => {
        batches.push(requests.map((it) => `${it.order_id} ${it.kind}`).toSorted());
        return done(requests);
      },
      async () => (await Promise.all([half, old, fresh].map((it) => ended(it)()))).every(Boolean),
      upgraded,
    );
    expect(batches).toEqual([
      [`${half.order_id} capture`, `${old.order_id} authorise`, `${fresh.order_id} authorise`].toSorted(),
      [`${old.order_id} capture`],
    ]);
    for (const it of [half, old])
      expect(await history(it)).toEqual(['placed', 'payment-authorised', 'payment-captured']);
    expect(await history(fresh)).toEqual(['placed', 'payment-authorised']);
  });

  it('is left alone by an instance that does not know it, which continues with other sagas', async () => {
    const fresh = await buy(newer);
    const untouched = await rowOf(fresh);
    // This one is due later, so once it has ended, the unknown one was skipped.
    const old = await buy();
    await leading(done, ended(old));
    expect(await rowOf(fresh)).toEqual(untouched);
    await leading(done, ended(fresh), upgraded);
    expect(await history(fresh)).toEqual(['placed', 'payment-authorised']);
  });

  it('that no instance knows is noted in the saga, which continues as soon as an instance knows it', async () => {
    const fresh = await buy(newer);
    await change('overdue', `due_at = now() - interval '2 minutes'`, fresh);
    await leading(done, async () => (await rowOf(fresh)).attempts > 0);
    expect(await rowOf(fresh)).toMatchObject({
      ...{ state: 'running', step: 'authorise', attempts: 1, lease: '-infinity' },
      result: { waits_for: 'a version of Cleave that knows purchase 2' },
    });
    await leading(done, ended(fresh), upgraded);
    expect(await history(fresh)).toEqual(['placed', 'payment-authorised']);
  });
});

describe('a dead letter', () => {
  it('is listed, cannot be closed while it is undecided, and can be retried at once', async () => {
    const order = await buy();
    await change('long', `attempts = 20, due_at = now() + interval '1 hour'`, order);
    const payment = { perform: () => Promise.reject(new Error('nobody is paid here')) };
    const letters = new ResolveDeadLetters(sagas, new RunSagas(sagas, payment, one.relay, current, 15_000));
    const { data } = await letters.list(tenant, undefined, 10);
    expect(data).toMatchObject([{ saga_id: order.order_id, saga: 'purchase', step: 'authorise', attempts: 20 }]);
    await expect(letters.resolve(tenant, order.order_id, 'done')).rejects.toMatchObject({ code: 'illegal-transition' });
    await letters.retry(tenant, order.order_id);
    // It keeps its operation id, because the operation may have been carried out.
    const names: string[] = [];
    await leading((requests) => {
      names.push(...requests.map((it) => it.operation_id));
      return done(requests);
    }, ended(order));
    expect(names[0]).toBe(operationIdOf(order.order_id, 'authorise', 0));
    expect((await letters.list(tenant, undefined, 10)).data).toEqual([]);
    await expect(letters.retry(tenant, order.order_id)).rejects.toMatchObject({ code: 'dead-letter-not-found' });
  });
});

describe('a money move with expected versions', () => {
  const starting = (order: Order, sagaId: string, ifVersions?: readonly number[]) =>
    sagas.start(
      tenant,
      {
        ...{ sagaId, orderId: order.order_id, definition: 'refund', version: 1, step: 'refund' },
        data: { amount_minor: 1 },
      },
      ifVersions,
    );
  const waitingFor = (count: number) =>
    eventually(async () => {
      const rows = await one.sql.query({
        name: 'test-waiting',
        text: `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`,
      });
      expect(rows).toHaveLength(count);
    });

  it('is started once per version, even if several starts wait for the same row', async () => {
    const order = await buy();
    const names = Array.from({ length: 4 }, () => randomUUID());
    const starts = await one.sql.transaction(async (holding) => {
      await holding.query(
        { name: 'test-hold-purchase', text: `SELECT FROM orders.sagas WHERE saga_id = $1 FOR UPDATE` },
        [order.order_id],
      );
      const begun = names.map((it) => starting(order, it, [order.version]));
      await waitingFor(names.length);
      return begun;
    });
    expect((await Promise.all(starts)).filter(Boolean)).toHaveLength(1);
  });

  it('starts only if the version matches and the previous conditional move has ended', async () => {
    const order = await buy();
    const [first, second, free] = [randomUUID(), randomUUID(), randomUUID()];
    expect(await starting(order, second, [order.version + 1])).toBe(false);
    expect(await starting(order, first, [7, order.version])).toBe(true);
    expect(await starting(order, first, [order.version])).toBe(false);
    expect(await starting(order, second, [order.version])).toBe(false);
    expect(await starting(order, free)).toBe(true);
    // As if the move had been refused: the order keeps its version.
    await change('end', `state = 'ended'`, { ...order, order_id: first });
    expect(await starting(order, second, [order.version])).toBe(true);
  });
});

const runningNone = () => {
  const payment = { perform: () => Promise.reject(new Error('nobody is paid here')) };
  return new RunSagas(sagas, payment, one.relay, current, 15_000);
};

it('two accounts may use the same idempotency key, each for a money move of its own', async () => {
  const { order_id: orderId } = await buy();
  const moves: MoneyMoves = {
    start: () => Promise.reject(new Error('every move has been made')),
    find: () => {
      const data = { amount_minor: 1, fingerprint: 'f' };
      return Promise.resolve({ orderId, data, state: 'ended', result: { amount_minor: 1 } });
    },
  };
  const moveMoney = new MoveMoney(moves, one.orders, runningNone());
  const moveOf = async (account: string, idempotencyKey: string) =>
    moveMoney.execute({
      ...{ tenant, account, idempotencyKey, fingerprint: 'f', orderId },
      ...{ kind: 'refund', expectedVersions: undefined, amountMinor: 1 },
    });
  const first = await moveOf('a', 'k');
  expect(first).toMatchObject({ move: { status: 'succeeded' }, replayed: true });
  expect(await moveOf('a', 'k')).toEqual(first);
  expect(await moveOf('b', 'k')).not.toEqual(first);
  expect(await moveOf('a', 'l')).not.toEqual(first);
});

it('a money move that is not decided in time is answered as pending, even if the wall clock is set back', async () => {
  const order = await buy();
  await change('end', `state = 'ended'`, order);
  const clock = clocks();
  const command = {
    ...{ tenant, account: 'acc', idempotencyKey: 'k', fingerprint: 'f', orderId: order.order_id },
    ...{ kind: 'refund' as const, expectedVersions: undefined, amountMinor: 1 },
  };
  const moves: MoneyMoves = {
    start: () => Promise.resolve(true),
    find: (_, sagaId) => {
      clock.ahead(1_000);
      const state = sagaId === order.order_id ? ('ended' as const) : ('running' as const);
      const data = { amount_minor: 1, fingerprint: 'f' };
      return Promise.resolve({ orderId: order.order_id, data, state, result: {} });
    },
  };
  expect(await new MoveMoney(moves, one.orders, runningNone()).execute(command)).toMatchObject({
    move: { kind: 'refund', status: 'pending' },
  });
}, 10_000);

describe('an operation id', () => {
  it('is derived from saga, step and round, and differs between any two of these', () => {
    const named = fc.tuple(fc.uuid(), fc.constantFrom('authorise', 'capture', 'refund', 'reverse'), fc.nat(3));
    fc.assert(
      fc.property(named, named, (some, others) => {
        const isSame = JSON.stringify(some) === JSON.stringify(others);
        expect(operationIdOf(...some) === operationIdOf(...others)).toBe(isSame);
      }),
      { seed: testSeed() },
    );
  });
});

describe('the retry delay', () => {
  it('doubles up to one minute, with a jitter of 25 %', () => {
    expect([0, 1, 5, 9, 10, 1_000].map((it) => waitMs(it, 0.5))).toEqual([100, 200, 3_200, 51_200, 60_000, 60_000]);
    expect([0, 1].map((it) => waitMs(0, it))).toEqual([75, 125]);
  });
});
