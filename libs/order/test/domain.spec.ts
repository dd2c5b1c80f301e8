import { describe, expect, it, jest } from '@jest/globals';
import fc from 'fast-check';
import { CleaveError, orderStatuses, placeOrderRequest, type OrderStatus } from '#contracts';
import { anybody } from '#security';
import { independentBits, testSeed } from '#testing';
import {
  cancelOrder,
  cancelRemaining,
  fulfilOrder,
  newOrderId,
  replay,
  returnGoods,
  stockEffectOf,
  transitions,
  type HistoryEntry,
  type Order,
  type OrderChange,
} from '../src/domain/order.js';
import {
  asPlaced,
  canonicalJson,
  canonicalPlacement,
  commandOf,
  fingerprintOf,
  itemsTotalRange,
  placedOrder,
  refusalOf,
  reservationIdOf,
} from '../src/domain/placement.js';
import { keyedChange } from '../src/transport/requests.js';

const placedAt = new Date('2026-11-05T12:00:00.000Z');
const later = new Date('2026-11-05T12:00:01.000Z');

const products = new Map(
  ['a', 'b', 'c'].map((product_id, index) => [
    product_id,
    { product_id, name: product_id.toUpperCase(), unit_price_minor: 100 * (index + 1), currency: 'GBP' },
  ]),
);

/** An order of lines `[product, quantity]`. */
const orderOf = (...lines: [string, number][]): Order =>
  placedOrder(
    commandOf({
      customer_id: 'c-1',
      lines: lines.map(([product_id, quantity]) => ({ product_id, quantity })),
    }),
    products,
    newOrderId(placedAt.getTime()),
    placedAt,
  );

const refusal = (work: () => unknown): CleaveError => {
  try {
    work();
  } catch (error) {
    return error as CleaveError;
  }
  throw new Error('it was not refused');
};

describe('the state machine', () => {
  const inStatus: Record<OrderStatus, Order> = {
    pending: { ...orderOf(['a', 2]), status: 'pending' },
    confirmed: orderOf(['a', 2]),
    'partially-fulfilled': fulfilOrder(orderOf(['a', 2]), [{ product_id: 'a', quantity: 1 }], later)!.order,
    fulfilled: fulfilOrder(orderOf(['a', 2]), undefined, later)!.order,
    returned: { ...orderOf(['a', 2]), status: 'returned' },
    cancelled: cancelOrder(orderOf(['a', 2]), undefined, later)!.order,
  };
  inStatus.returned = returnGoods(
    inStatus.fulfilled,
    { lines: [{ product_id: 'a', quantity: 2 }], restock: true, reason: 'r' },
    later,
  ).order;
  const one = [{ product_id: 'a', quantity: 1 }];
  const two = [{ product_id: 'a', quantity: 2 }];
  const verbs: Record<string, (order: Order) => OrderChange | undefined> = {
    cancel: (order) => cancelOrder(order, 'r', later),
    'cancel the rest': (order) => cancelRemaining(order, 'r', later),
    'fulfil the rest': (order) => fulfilOrder(order, undefined, later),
    'fulfil one': (order) => fulfilOrder(order, one, later),
    'return one': (order) => returnGoods(order, { lines: one, restock: true, reason: 'r' }, later),
  };
  const refused = 'refused';
  const already = 'already';
  const table: [OrderStatus, Record<keyof typeof verbs, OrderStatus | typeof refused | typeof already>][] = [
    [
      'pending',
      {
        ...{ cancel: 'cancelled', 'cancel the rest': 'cancelled' },
        ...{ 'fulfil the rest': refused, 'fulfil one': refused, 'return one': refused },
      },
    ],
    [
      'confirmed',
      {
        ...{ cancel: 'cancelled', 'cancel the rest': 'cancelled' },
        ...{ 'fulfil the rest': 'fulfilled', 'fulfil one': 'partially-fulfilled', 'return one': refused },
      },
    ],
    [
      'partially-fulfilled',
      {
        ...{ cancel: refused, 'cancel the rest': 'fulfilled' },
        ...{ 'fulfil the rest': 'fulfilled', 'fulfil one': 'fulfilled', 'return one': 'partially-fulfilled' },
      },
    ],
    [
      'fulfilled',
      {
        ...{ cancel: refused, 'cancel the rest': refused },
        ...{ 'fulfil the rest': already, 'fulfil one': refused, 'return one': 'fulfilled' },
      },
    ],
    [
      'returned',
      {
        ...{ cancel: refused, 'cancel the rest': refused },
        ...{ 'fulfil the rest': already, 'fulfil one': refused, 'return one': refused },
      },
    ],
    [
      'cancelled',
      {
        ...{ cancel: already, 'cancel the rest': already },
        ...{ 'fulfil the rest': refused, 'fulfil one': refused, 'return one': refused },
      },
    ],
  ];

  it('is tested from every status', () => expect(table.map(([status]) => status)).toEqual([...orderStatuses]));

  it.each(table)('allows and refuses the listed changes from %s', (status, leadsTo) => {
    for (const [verb, use] of Object.entries(verbs)) {
      const before = structuredClone(inStatus[status]);
      const expected = leadsTo[verb];
      if (expected === refused) {
        const { code, extensions } = refusal(() => use(inStatus[status]));
        expect([verb, code, extensions['order_status']]).toEqual([verb, 'illegal-transition', status]);
      } else {
        const change = use(inStatus[status]);
        expect([verb, change?.order.status ?? already]).toEqual([verb, expected]);
        if (change) expect(change.order.version).toBe(before.version + 1);
      }
      // A decision does not mutate its order.
      expect(inStatus[status]).toEqual(before);
    }
  });

  it('matches its table: each decision is allowed from, and leads to, exactly the listed statuses', () => {
    const decisions: Record<keyof typeof transitions, { inParticular: Decide[]; inGeneral?: Decide }> = {
      cancel: { inParticular: [], inGeneral: (order) => cancelOrder(order, 'r', later) },
      'cancel-remaining': { inParticular: [], inGeneral: (order) => cancelRemaining(order, 'r', later) },
      fulfil: {
        inParticular: [(order) => fulfilOrder(order, one, later), (order) => fulfilOrder(order, two, later)],
        inGeneral: (order) => fulfilOrder(order, undefined, later),
      },
      return: {
        inParticular: [one, two].map(
          (lines) => (order) => returnGoods(order, { lines, restock: true, reason: 'r' }, later),
        ),
      },
    };
    // Orders in every status, with every distribution of their units.
    const parts = everyPartOf(orderOf(['a', 2], ['b', 1]));
    const cancelledParts = parts
      .filter((it) => it.status === 'partially-fulfilled')
      .map((it) => cancelRemaining(it, undefined, later)!.order);
    const orders = [...Object.values(inStatus), ...parts, ...cancelledParts];
    expect(Object.keys(decisions).toSorted()).toEqual(Object.keys(transitions).toSorted());
    for (const verb of Object.keys(decisions) as (keyof typeof transitions)[]) {
      const { mayFrom, leadsTo, done, whyNot } = transitions[verb];
      const { inParticular, inGeneral } = decisions[verb];
      const [startedFrom, ledTo] = [new Set<OrderStatus>(), new Set<OrderStatus>()];
      for (const order of orders) {
        for (const decide of [...inParticular, ...(inGeneral ? [inGeneral] : [])]) {
          if (decide === inGeneral && done.includes(order.status) && !endedOtherwise(verb, order)) {
            expect(decide(order)).toBeUndefined();
            continue;
          }
          let change: OrderChange | undefined;
          try {
            change = decide(order);
          } catch (error) {
            expect(error).toMatchObject({ code: 'illegal-transition', extensions: { order_status: order.status } });
            const { detail, extensions } = error as CleaveError;
            // From an allowed status, it can only be refused for lack of units.
            if (mayFrom.includes(order.status)) expect(extensions['faults']).toHaveLength(1);
            else
              expect([detail, extensions['allowed_from']]).toEqual([
                `The order is ${order.status}. ${whyNot}`,
                mayFrom,
              ]);
            continue;
          }
          expect(mayFrom).toContain(order.status);
          expect(leadsTo).toContain(change!.order.status);
          startedFrom.add(order.status);
          ledTo.add(change!.order.status);
        }
      }
      // Every listed status occurs, except that an order returned in full has nothing left to return.
      expect([...startedFrom].toSorted()).toEqual(
        mayFrom.filter((it) => !(verb === 'return' && it === 'returned')).toSorted(),
      );
      expect([...ledTo].toSorted()).toEqual(leadsTo.toSorted());
    }
  });
});

type Decide = (order: Order) => OrderChange | undefined;

/** Whether the remaining units were cancelled instead of fulfilled, or fulfilled instead of cancelled. */
const endedOtherwise = (verb: string, { status, lines }: Order): boolean => {
  const isCancelledInPart = lines.some((it) => it.cancelled !== undefined);
  if (verb === 'cancel-remaining') return status !== 'cancelled' && !isCancelledInPart;
  return verb === 'fulfil' && isCancelledInPart;
};

/** The order with every number of fulfilled units, and every number of those returned, line by line. */
const everyPartOf = (order: Order): Order[] => {
  let some = [order];
  for (const { line, quantity, product_id } of order.lines)
    some = some.flatMap((start) =>
      Array.from({ length: quantity + 1 }, (_, fulfilled) => fulfilled).flatMap((fulfilled) => {
        if (fulfilled === 0) return [start];
        const handedOver = fulfilOrder(start, [{ product_id, line, quantity: fulfilled }], later)!.order;
        const back = (quantity: number) => ({ lines: [{ product_id, line, quantity }], restock: true, reason: 'r' });
        const returned = Array.from(
          { length: fulfilled },
          (_, it) => returnGoods(handedOver, back(it + 1), later).order,
        );
        // An order in status `returned` would not allow fulfilling the next line.
        return [handedOver, ...returned.filter((it) => it.status !== 'returned')];
      }),
    );
  return some;
};

const effectOf = ({ order: { status }, entry }: OrderChange) => stockEffectOf({ ...entry, status });

describe('cancelling the remaining units', () => {
  const [a, b] = [
    { product_id: 'a', quantity: 2 },
    { product_id: 'b', quantity: 1 },
  ];
  const order = fulfilOrder(orderOf(['a', 3], ['b', 1], ['c', 2]), [a, b], later)!.order;
  const back = (...lines: { product_id: string; quantity: number }[]) => ({
    lines,
    restock: true,
    reason: 'r',
  });

  it('records the units of each line, releases their stock, and rules out fulfilling them later', () => {
    const { order: after, entry } = cancelRemaining(order, 'gone', later)!;
    const lines = [
      { line: 1, product_id: 'a', quantity: 1 },
      { line: 3, product_id: 'c', quantity: 2 },
    ];
    expect(entry).toEqual({ type: 'cancelled', data: { remaining: true, lines, reason: 'gone' } });
    expect(after).toEqual({
      ...order,
      ...{ status: 'fulfilled', version: order.version + 1, updated_at: later },
      // Only lines with cancelled units have the field, so that other orders look as they did before it existed.
      lines: order.lines.map((it, index) => ({ ...it, ...(index !== 1 && { cancelled: [1, 0, 2][index] }) })),
    });
    expect(effectOf({ order: after, entry })).toEqual({ kind: 'release' });
    expect(cancelRemaining(after, 'again', later)).toBeUndefined();
    for (const more of [undefined, [{ product_id: 'c', quantity: 1 }]])
      expect(refusal(() => fulfilOrder(after, more, later)).code).toBe('illegal-transition');
    const handedOver = fulfilOrder(order, undefined, later)!.order;
    expect(refusal(() => cancelRemaining(handedOver, 'late', later)).detail).toContain('nothing left to hand over');
  });

  it('makes the order returned once all fulfilled units are back, whichever happens first', () => {
    const returned = returnGoods(order, back(a, b), later).order;
    expect(returned.status).toBe('partially-fulfilled');
    expect(cancelRemaining(returned, undefined, later)!.order.status).toBe('returned');
    const cancelled = cancelRemaining(order, undefined, later)!.order;
    const inPart = returnGoods(cancelled, back(a), later).order;
    expect(inPart.status).toBe('fulfilled');
    expect(returnGoods(inPart, back(b), later).order.status).toBe('returned');
    expect(refusal(() => returnGoods(cancelled, back({ product_id: 'c', quantity: 1 }), later)).code).toBe(
      'illegal-transition',
    );
  });
});

describe('units', () => {
  const order = orderOf(['a', 3], ['b', 1], ['a', 2]);
  const fulfilled = (of: Order): number[] => of.lines.map((it) => it.fulfilled);

  it('are taken from the lines of their product in order, or from the given line', () => {
    const { order: after, entry } = fulfilOrder(order, [{ product_id: 'a', quantity: 4 }], later)!;
    expect(fulfilled(after)).toEqual([3, 0, 1]);
    expect(effectOf({ order: after, entry })).toEqual({
      kind: 'fulfil',
      lines: [
        { line: 1, product_id: 'a', quantity: 3 },
        { line: 3, product_id: 'a', quantity: 1 },
      ],
    });
    const named = fulfilOrder(order, [{ product_id: 'a', quantity: 2, line: 3 }], later)!;
    expect(fulfilled(named.order)).toEqual([0, 0, 2]);
  });

  it('given in several entries are taken entry by entry, and none is taken twice', () => {
    const entries = (...quantities: number[]) => quantities.map((quantity) => ({ product_id: 'a', quantity }));
    expect(fulfilled(fulfilOrder(order, entries(2, 2, 1), later)!.order)).toEqual([3, 0, 2]);
    const { code, extensions } = refusal(() => fulfilOrder(order, entries(2, 2, 2), later));
    expect(code).toBe('illegal-transition');
    expect(extensions).toMatchObject({ faults: [{ path: 'lines.2.quantity', message: 'at most 1' }] });
    const line = refusal(() => fulfilOrder(order, [...entries(3), { product_id: 'a', quantity: 1, line: 1 }], later));
    expect(line.extensions).toMatchObject({ faults: [{ path: 'lines.1.quantity', message: 'at most 0' }] });
  });

  it('of 2,000 lines are fulfilled in 100 ms, however the entries name them', () => {
    const many = orderOf(...Array.from({ length: 2_000 }, (): [string, number] => ['a', 1]));
    const each = many.lines.map(({ product_id, line }) => ({ product_id, quantity: 1, line }));
    const unnamed = each.map(({ product_id, quantity }) => ({ product_id, quantity }));
    for (const units of [unnamed, each, each.toReversed(), [...each.slice(0, -1).toReversed(), ...unnamed.slice(-1)]]) {
      // The fastest of several runs, because another process may use the CPU during one.
      const tookMs = Array.from({ length: 5 }, () => {
        const begun = performance.now();
        expect(fulfilOrder(many, units, later)!.order.status).toBe('fulfilled');
        return performance.now() - begun;
      });
      expect(Math.min(...tookMs)).toBeLessThan(100);
    }
  });

  it('that the order does not have are refused', () => {
    for (const wrong of [
      { product_id: 'z', quantity: 1 },
      { product_id: 'a', quantity: 1, line: 2 },
      { product_id: 'a', quantity: 1, line: 9 },
      { product_id: 'b', quantity: 2 },
    ])
      expect(refusal(() => fulfilOrder(order, [wrong], later)).code).toBe('illegal-transition');
  });

  it('cannot be returned beyond what was fulfilled', () => {
    const part = fulfilOrder(order, [{ product_id: 'a', quantity: 4 }], later)!.order;
    const back = (quantity: number) => ({ lines: [{ product_id: 'a', quantity }], restock: true, reason: 'r' });
    expect(refusal(() => returnGoods(part, back(5), later)).code).toBe('illegal-transition');
    const once = returnGoods(part, back(3), later).order;
    expect(once.status).toBe('partially-fulfilled');
    expect(refusal(() => returnGoods(once, back(2), later)).code).toBe('illegal-transition');
    expect(returnGoods(once, back(1), later).order.lines.map((it) => it.returned)).toEqual([3, 0, 1]);
  });
});

describe('a credit', () => {
  it('for units of several lines is split in proportion, and the shares add up to it', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 1_000_000 }), { minLength: 1, maxLength: 8 }),
        fc.maxSafeNat(),
        (quantities, amount_minor) => {
          const lines = quantities.map((quantity): [string, number] => ['a', quantity]);
          const handedOver = fulfilOrder(orderOf(...lines), undefined, later)!.order;
          const quantity = quantities.reduce((sum, it) => sum + it, 0);
          const command = { lines: [{ product_id: 'a', quantity, amount_minor }], restock: false, reason: 'r' };
          const { order, entry } = returnGoods(handedOver, command, later);
          const shares = entry.data.lines!.map((it) => it.amount_minor!);
          expect(shares).toHaveLength(quantities.length);
          expect(shares.reduce((sum, it) => sum + BigInt(it), 0n)).toBe(BigInt(amount_minor));
          shares.forEach((share, index) => {
            const fair = Number((BigInt(amount_minor) * BigInt(quantities[index]!)) / BigInt(quantity));
            expect(Math.abs(share - fair)).toBeLessThanOrEqual(quantities.length);
          });
          expect(order.returned_total_minor).toBe(amount_minor);
          expect(effectOf({ order, entry })).toBeUndefined();
          expect(effectOf(returnGoods(handedOver, { ...command, restock: true }, later))!.kind).toBe('restock');
        },
      ),
      { seed: testSeed() },
    );
  });

  it('defaults to the prices in the order, and cannot add up to more than the largest safe integer', () => {
    const handedOver = fulfilOrder(orderOf(['a', 3], ['b', 2]), undefined, later)!.order;
    const most = Number.MAX_SAFE_INTEGER;
    const back = (lines: { product_id: string; quantity: number; amount_minor?: number }[]) =>
      returnGoods(handedOver, { lines, restock: false, reason: 'r' }, later).order.returned_total_minor;
    expect(
      back([
        { product_id: 'a', quantity: 2 },
        { product_id: 'b', quantity: 1 },
      ]),
    ).toBe(400);
    expect(back([{ product_id: 'a', quantity: 3, amount_minor: 0 }])).toBe(0);
    expect(back([{ product_id: 'a', quantity: 1, amount_minor: most }])).toBe(most);
    const beyond = [
      { product_id: 'a', quantity: 1, amount_minor: most },
      { product_id: 'a', quantity: 1, amount_minor: 1 },
    ];
    expect(refusal(() => back(beyond)).code).toBe('invalid-request');
  });

  it('cannot exceed the total of an order that is paid through Cleave, all returns together', () => {
    const command = commandOf({
      customer_id: 'c-1',
      lines: [{ product_id: 'a', quantity: 3 }],
      adjustments: [{ kind: 'discount', label: 'Friends', amount_minor: 50 }],
      payment: { method: 'manual' },
    });
    const placed = placedOrder(command, products, newOrderId(placedAt.getTime()), placedAt);
    expect(placed.total_minor).toBe(250);
    const handedOver = fulfilOrder({ ...placed, status: 'confirmed' }, undefined, later)!.order;
    const back = (order: Order, quantity: number, amount_minor?: number) =>
      returnGoods(order, { lines: [{ product_id: 'a', quantity, amount_minor }], restock: false, reason: 'r' }, later);
    // Because of the discount, the prices add up to more than was paid.
    expect(refusal(() => back(handedOver, 3)).code).toBe('credit-exceeds-total');
    expect(back(handedOver, 3, 250).order.returned_total_minor).toBe(250);
    const once = back(handedOver, 2).order;
    const { code, extensions } = refusal(() => back(once, 1, 51));
    expect([code, extensions]).toEqual(['credit-exceeds-total', { at_most_minor: 50 }]);
    expect(back(once, 1, 50).order).toMatchObject({ status: 'returned', returned_total_minor: 250 });
    // An order that was credited with more before this limit existed can still be returned.
    const credited = { ...once, returned_total_minor: 300 };
    expect(refusal(() => back(credited, 1)).extensions).toEqual({ at_most_minor: 0 });
    expect(back(credited, 1, 0).order).toMatchObject({ status: 'returned', returned_total_minor: 300 });
  });
});

/** The order as it follows from its history alone (I10), computed without the domain code. */
const retold = (placed: Order, entries: readonly HistoryEntry[]): Order => {
  const order = structuredClone(placed);
  for (const { type, data, status, version, at } of entries) {
    for (const { line, quantity } of data.lines ?? []) {
      const told = order.lines[line - 1]!;
      const counter = type as 'cancelled' | 'fulfilled' | 'returned';
      told[counter] = (told[counter] ?? 0) + quantity;
    }
    if (type === 'returned') order.returned_total_minor += data.amount_minor!;
    Object.assign(order, { status, version, updated_at: at });
  }
  return order;
};

/** The entries as they are stored and read back. */
const kept = (placed: Order, changes: readonly OrderChange[]): HistoryEntry[] => [
  { version: 1, type: 'placed', status: placed.status, data: {}, at: placed.created_at },
  ...changes.map(({ order: { version, status, updated_at }, entry: { type, data } }) => ({
    ...{ version, type, status, at: updated_at },
    data: JSON.parse(JSON.stringify(data)) as HistoryEntry['data'],
  })),
];

it('after any changes, an order matches its history and total (I10, I11), and stock effects cover every unit', () => {
  const product = fc.constantFrom('a', 'b', 'c');
  // Few at a time, so that there are enough for several hand-overs and returns.
  const units = fc.record(
    { product_id: product, quantity: fc.integer({ min: 1, max: 2 }), line: fc.integer({ min: 1, max: 4 }) },
    { requiredKeys: ['product_id', 'quantity'] },
  );
  const someUnits = fc.array(units, { minLength: 1, maxLength: 2 });
  const step = fc.oneof(
    { weight: 1, arbitrary: fc.constant((order: Order, at: Date) => cancelOrder(order, 'r', at)) },
    { weight: 1, arbitrary: fc.constant((order: Order, at: Date) => cancelRemaining(order, 'r', at)) },
    { weight: 1, arbitrary: fc.constant((order: Order, at: Date) => fulfilOrder(order, undefined, at)) },
    { weight: 40, arbitrary: someUnits.map((some) => (order: Order, at: Date) => fulfilOrder(order, some, at)) },
    {
      weight: 40,
      arbitrary: fc.tuple(someUnits, fc.boolean()).map(
        ([lines, restock]) =>
          (order: Order, at: Date) =>
            returnGoods(order, { lines, restock, reason: 'r' }, at),
      ),
    },
  );
  fc.assert(
    fc.property(
      fc.array(fc.tuple(product, fc.integer({ min: 1, max: 5 })), { minLength: 1, maxLength: 4 }),
      // Without `size`, arrays have at most ten elements.
      fc.array(fc.tuple(step, fc.integer({ min: -2_000, max: 2_000 })), { maxLength: 40, size: 'max' }),
      (lines, steps) => {
        const placed = orderOf(...lines);
        const changes: OrderChange[] = [];
        let order = placed;
        for (const [decide, driftMs] of steps) {
          let change: OrderChange | undefined;
          try {
            change = decide(order, new Date(placedAt.getTime() + driftMs));
          } catch (error) {
            expect(error).toMatchObject({ code: 'illegal-transition' });
          }
          if (!change) continue;
          changes.push(change);
          expect(change.order.updated_at.getTime()).toBeGreaterThanOrEqual(order.updated_at.getTime());
          order = change.order;
          for (const line of order.lines) {
            expect(line.returned).toBeLessThanOrEqual(line.fulfilled);
            expect(line.fulfilled + (line.cancelled ?? 0)).toBeLessThanOrEqual(line.quantity);
          }
          const sum = order.lines.reduce((total, it) => total + it.quantity * it.unit_price_minor, 0);
          expect(order.total_minor).toBe(sum);
        }
        const entries = kept(placed, changes);
        expect(retold(placed, entries)).toEqual(order);
        expect(asPlaced(order)).toEqual(placed);
        // The result of every change can be rebuilt from the history, and that of the last one is the current order.
        expect(replay(asPlaced(order), entries)).toEqual(order);
        for (const [index, change] of [{ order: placed }, ...changes].entries())
          expect(replay(asPlaced(order), entries.slice(0, index + 1))).toEqual(change.order);

        const effects = entries.map(stockEffectOf);
        const told = (kind: NonNullable<ReturnType<typeof stockEffectOf>>['kind']) =>
          effects
            .filter((it) => it?.kind === kind)
            .flatMap((it) => it!.lines ?? [])
            .reduce((total, it) => total + it.quantity, 0);
        expect(effects.map((it) => it?.kind).indexOf('confirm')).toBe(0);
        expect(effects.filter((it) => it?.kind === 'confirm')).toHaveLength(1);
        const isCancelled = order.status === 'cancelled' || order.lines.some((it) => it.cancelled !== undefined);
        expect(effects.filter((it) => it?.kind === 'release')).toHaveLength(isCancelled ? 1 : 0);
        expect(told('fulfil')).toBe(order.lines.reduce((total, it) => total + it.fulfilled, 0));
        const restocked = entries.filter((it) => it.data.restock).flatMap((it) => it.data.lines!);
        expect(told('restock')).toBe(restocked.reduce((total, it) => total + it.quantity, 0));
        expect(told('restock')).toBeLessThanOrEqual(order.lines.reduce((total, it) => total + it.returned, 0));
      },
    ),
    { seed: testSeed(), numRuns: 500 },
  );
});

describe('a command', () => {
  const full = {
    customer_id: 'c-1',
    lines: [{ product_id: 'a', quantity: 1, unit_price_minor: 5 }],
    reference: 'r-1',
    adjustments: [{ kind: 'discount' as const, label: 'Friends', amount_minor: 1 }],
    metadata: { b: [1, { y: 1, x: 2 }], a: null },
  };
  const fingerprint = (request: unknown) =>
    fingerprintOf(canonicalPlacement(commandOf(placeOrderRequest.parse(request))));

  it('has one fingerprint, whatever the order of its fields, its form or the sign of its discount', () => {
    const reordered = {
      metadata: { a: null, b: [1, { x: 2, y: 1 }] },
      adjustments: [{ amount_minor: -1, label: 'Friends', kind: 'discount' }],
      lines: [{ unit_price_minor: 5, quantity: 1, product_id: 'a' }],
      reference: 'r-1',
      customer_id: 'c-1',
    };
    expect(fingerprint(reordered)).toBe(fingerprint(full));
    expect(fingerprint({ customer_id: 'c-1', product_id: 7, quantity: 2 })).toBe(
      fingerprint({ customer_id: 'c-1', lines: [{ quantity: 2, product_id: '7' }], adjustments: [], metadata: {} }),
    );
  });

  it('has another fingerprint when any part differs', () => {
    const others = [
      full,
      { ...full, customer_id: 'c-2' },
      { ...full, reference: undefined },
      { ...full, expected_total_minor: 4 },
      { ...full, adjustments: [] },
      { ...full, metadata: { ...full.metadata, b: [{ y: 1, x: 2 }, 1] } },
      { ...full, lines: [...full.lines, ...full.lines] },
      { ...full, lines: [{ product_id: 'a', quantity: 1 }] },
    ];
    expect(new Set(others.map(fingerprint)).size).toBe(others.length);
  });

  it('has the same fingerprint if and only if all of its parts are equal', () => {
    const word = fc.constantFrom('a', 'b', '1', '', '","', 'null');
    const line = fc.record(
      { product_id: word, quantity: fc.integer({ min: 1, max: 2 }), unit_price_minor: fc.nat({ max: 1 }) },
      { requiredKeys: ['product_id', 'quantity'] },
    );
    const parts = {
      customerId: word,
      lines: fc.array(line, { minLength: 1, maxLength: 2 }),
      reference: fc.option(word),
      adjustments: fc.array(
        fc.record({
          kind: fc.constantFrom('tax' as const, 'shipping' as const),
          label: word,
          amount_minor: fc.nat({ max: 1 }),
        }),
        { maxLength: 1 },
      ),
      expectedTotalMinor: fc.option(fc.nat({ max: 1 })),
      metadata: fc.dictionary(word, fc.oneof(word, fc.array(word, { maxLength: 2 })), { maxKeys: 2 }),
      payment: fc.option(
        fc.record({ method: fc.constantFrom('manual' as const, 'simulated' as const), token: fc.option(word) }),
      ),
      personal: fc.constant(null),
    };
    const command = fc.record(parts);
    const some = fc.subarray(Object.keys(parts) as (keyof typeof parts)[]);
    // The plain comparison of everything.
    const same = (one: unknown, two: unknown) => canonicalJson(one) === canonicalJson(two);
    fc.assert(
      fc.property(
        // The second one differs from the first in some parts only: any two would hardly ever differ in a single one.
        fc
          .tuple(command, command, some)
          .map(([one, other, taken]): [typeof one, typeof one] => [
            one,
            { ...structuredClone(one), ...Object.fromEntries(taken.map((it) => [it, other[it]])) },
          ]),
        ([one, two]) => {
          expect(canonicalPlacement(one) === canonicalPlacement(two)).toBe(same(one, two));
          expect(fingerprintOf(canonicalPlacement(one)) === fingerprintOf(canonicalPlacement(two))).toBe(
            same(one, two),
          );
        },
      ),
      { seed: testSeed(), numRuns: 1_000 },
    );
  });

  it('has a fingerprint in the format of a UUID of version 8', () => {
    expect(fingerprint(full)).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });

  it('has a reservation id that depends on tenant, account, key, fingerprint and attempt', () => {
    const parts = ['tenant', 'account', 'key', 'fingerprint', 1] as const;
    const id = reservationIdOf(...parts);
    expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(reservationIdOf(...parts)).toBe(id);
    const others = [
      reservationIdOf('tenan', 'taccount', 'key', 'fingerprint', 1),
      reservationIdOf('tenant', 'other', 'key', 'fingerprint', 1),
      reservationIdOf('tenant', 'account', 'other', 'fingerprint', 1),
      reservationIdOf('tenant', 'account', 'key', 'other', 1),
      reservationIdOf('tenant', 'account', 'key', 'fingerprint', 2),
    ];
    expect(new Set([id, ...others]).size).toBe(6);
  });

  it('derives a range for the sum of its items that admits exactly the safe and expected totals', () => {
    const amount = fc.oneof(fc.integer({ min: -1_000, max: 1_000 }), fc.maxSafeInteger());
    const adjustment = fc
      .tuple(fc.constantFrom('tax' as const, 'discount' as const), amount)
      .map(([kind, it]) => ({ kind, label: 'l', amount_minor: kind === 'tax' ? Math.abs(it) : it }));
    fc.assert(
      fc.property(
        fc.array(adjustment, { maxLength: 3 }),
        fc.option(fc.oneof(fc.nat({ max: 2_000 }), fc.maxSafeNat()), { nil: undefined }),
        fc.bigInt({ min: 0n, max: 10n ** 17n }),
        (adjustments, expected_total_minor, spread) => {
          const request = { customer_id: 'c', product_id: 'a', quantity: 1, adjustments, expected_total_minor };
          let command;
          try {
            command = commandOf(request);
          } catch (error) {
            expect(error).toMatchObject({ code: 'invalid-request', extensions: { faults: [{ path: 'adjustments' }] } });
            return;
          }
          const adjusted = command.adjustments.reduce((sum, it) => sum + BigInt(it.amount_minor), 0n);
          const safe = (it: bigint) => it >= 0n && it <= BigInt(Number.MAX_SAFE_INTEGER);
          // Sums close to the bounds, and arbitrary ones.
          for (const items of [spread, -adjusted, BigInt(expected_total_minor ?? 0) - adjusted, spread % 2_000n]) {
            for (const near of [items - 1n, items, items + 1n]) {
              if (near < 0n || (adjustments.length === 0 && near > 5_000_000_000_000_000n)) continue;
              const total = near + adjusted;
              const fine = safe(total) && safe(near) && (expected_total_minor ?? Number(total)) === Number(total);
              const range = itemsTotalRange(command);
              const passes = !range || (near >= BigInt(range.at_least) && near <= BigInt(range.at_most));
              expect({ near, passes }).toEqual({ near, passes: fine });
              if (!fine) {
                const told = safe(near) ? Number(near) : null;
                expect(refusalOf({ outcome: 'total-outside', items_total_minor: told }, command).code).toBe(
                  expected_total_minor === undefined ? 'invalid-request' : 'price-changed',
                );
              }
            }
          }
        },
      ),
      { seed: testSeed(), numRuns: 1_000 },
    );
  });

  it('becomes an order whose lines and adjustments add up to its total (I11)', () => {
    const command = commandOf({
      customer_id: 'c-1',
      lines: [
        { product_id: 'b', quantity: 2 },
        { product_id: 'a', quantity: 3, unit_price_minor: 7 },
      ],
      adjustments: [
        { kind: 'shipping', label: 'Parcel', amount_minor: 30 },
        { kind: 'discount', label: 'Friends', amount_minor: 11 },
      ],
    });
    expect(placedOrder(command, products, 'id', placedAt)).toMatchObject({
      status: 'confirmed',
      currency: 'GBP',
      total_minor: 2 * 200 + 3 * 7 + 30 - 11,
      lines: [
        {
          line: 1,
          product_id: 'b',
          name: 'B',
          quantity: 2,
          unit_price_minor: 200,
          fulfilled: 0,
          returned: 0,
        },
        {
          line: 2,
          product_id: 'a',
          name: 'A',
          quantity: 3,
          unit_price_minor: 7,
          fulfilled: 0,
          returned: 0,
        },
      ],
      adjustments: [{ amount_minor: 30 }, { amount_minor: -11 }],
    });
  });
});

it('order ids are unique UUIDs of version 7 that sort by millisecond', () => {
  const ids = Array.from({ length: 2_000 }, (_, index) => newOrderId(1_762_000_000_000 + Math.floor(index / 20)));
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(new Set(ids).size).toBe(ids.length);
  const milliseconds = ids.map((id) => id.slice(0, 13));
  expect(milliseconds).toEqual(milliseconds.toSorted());
});

it('order ids of one millisecond have 74 independent random bits, which do not come from Math.random', () => {
  const drawn = jest.spyOn(Math, 'random').mockReturnValue(0.5);
  const ids = Array.from({ length: 200 }, () => newOrderId(placedAt.getTime()).replaceAll('-', ''));
  expect(drawn).not.toHaveBeenCalled();
  drawn.mockRestore();
  expect(new Set(ids.map((it) => it.slice(0, 12))).size).toBe(1);
  expect(independentBits(ids)).toBe(74);
});

it('the key of a hand-over without a reference has the fingerprint that earlier versions stored', () => {
  const command = { orderId: '0192f0c1-0000-7000-8000-000000000000', lines: [{ product_id: 'mug', quantity: 2 }] };
  const fingerprint = (asked: object) => keyedChange(anybody, 'fulfil', 'k', asked).fingerprint;
  expect(fingerprint({ ...command, reference: undefined })).toBe('aa0d1464-0f58-8eee-99a2-64ead8de04a2');
  expect(fingerprint({ ...command, reference: 'JD0002254' })).not.toBe('aa0d1464-0f58-8eee-99a2-64ead8de04a2');
});
