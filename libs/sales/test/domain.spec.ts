import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { limits, logBeginning, type OrderLogEvent } from '#contracts';
import { testSeed } from '#testing';
import { Sums, outlookOf, windowBefore, type Delta } from '../src/domain/sales.js';

const line = fc.record({
  product_id: fc.constantFrom('mug', 'lamp', '["'),
  name: fc.constant('n'),
  // A few lines suffice for sums that a number cannot represent exactly.
  quantity: fc.integer({ min: 1, max: limits.quantity }),
  unit_price_minor: fc.integer({ min: 0, max: limits.unitPriceMinor }),
});

const event: fc.Arbitrary<OrderLogEvent> = fc
  .record({
    type: fc.constantFrom(
      ...([
        'placed',
        'cancelled',
        'cancelled in part',
        'payment-declined',
        'payment-failed',
        'returned',
        'fulfilled',
        'refunded',
      ] as const),
    ),
    tenantid: fc.constantFrom('t', 'u'),
    currency: fc.constantFrom('GBP', 'EUR'),
    time: fc.date({
      min: new Date('2026-11-29T00:00:00Z'),
      max: new Date('2026-12-01T23:59:59Z'),
      noInvalidDate: true,
    }),
    lines: fc.array(line, { minLength: 1, maxLength: 4 }),
  })
  .map(({ type, tenantid, currency, time, lines }) => ({
    ...{ specversion: '1.0', id: 'i', source: '/orders', subject: 's', time, tenantid },
    type: type === 'cancelled in part' ? 'order.cancelled' : `order.${type}`,
    sequence: logBeginning,
    data: {
      ...{ version: 1, status: 'confirmed', currency },
      ...(type !== 'returned' && { order: { customer_id: 'c', reference: null, total_minor: 0, lines } }),
      details:
        type === 'returned'
          ? { lines: lines.map((it) => ({ ...it, amount_minor: it.unit_price_minor })) }
          : type === 'cancelled in part'
            ? { lines: everySecond(lines) }
            : {},
    },
  }));

/** The cancelled rest if the other lines, and one unit of each of these, were fulfilled. */
const everySecond = (lines: { product_id: string; quantity: number }[]) =>
  lines.flatMap(({ product_id, quantity }, index) =>
    index % 2 === 0 ? [{ line: index + 1, product_id, quantity: Math.max(1, quantity - 1) }] : [],
  );

/** The reference: the same sums, line by line, in bigints. */
const naive = (events: readonly OrderLogEvent[]): Record<string, Partial<Record<keyof Delta, bigint>>> => {
  const sums: Record<string, Partial<Record<keyof Delta, bigint>>> = {};
  for (const { type, tenantid, time, data } of events) {
    const of = (productId: string) =>
      (sums[[tenantid, time.toISOString().slice(0, 10), productId, data.currency].join(' ')] ??= {});
    const plus = (productId: string, what: keyof Delta, much: number | bigint) => {
      of(productId)[what] = (of(productId)[what] ?? 0n) + BigInt(much);
    };
    const undone = ['order.cancelled', 'order.payment-declined', 'order.payment-failed'].includes(type);
    const named = data.details['lines'] as { line: number; quantity: number }[] | undefined;
    for (const [index, line] of (data.order?.lines ?? []).entries()) {
      const { product_id, unit_price_minor } = line;
      const quantity = named ? (named.find((it) => it.line === index + 1)?.quantity ?? 0) : line.quantity;
      if (quantity === 0) continue;
      if (type === 'order.placed') plus(product_id, 'ordered', quantity);
      if (type === 'order.placed') plus(product_id, 'orderedMinor', BigInt(quantity) * BigInt(unit_price_minor));
      if (undone) plus(product_id, 'cancelled', quantity);
      if (undone) plus(product_id, 'cancelledMinor', BigInt(quantity) * BigInt(unit_price_minor));
    }
    if (type === 'order.placed')
      for (const productId of new Set(data.order!.lines.map((it) => it.product_id))) plus(productId, 'orders', 1);
    if (type === 'order.returned')
      for (const it of data.details['lines'] as { product_id: string; quantity: number; amount_minor: number }[]) {
        plus(it.product_id, 'returned', it.quantity);
        plus(it.product_id, 'returnedMinor', it.amount_minor);
      }
  }
  return sums;
};

describe('the deltas of events', () => {
  it('are their sums by tenant, day, product and currency, in that order', () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 30, size: 'max' }), (events) => {
        const deltas = new Sums().add(events).deltas();
        const sums = naive(events);
        expect(deltas.map((it) => [it.tenant, it.day, it.productId, it.currency].join(' ')).toSorted()).toEqual(
          Object.keys(sums).toSorted(),
        );
        for (const { tenant, day, productId, currency, ...numbers } of deltas) {
          const sum = sums[[tenant, day, productId, currency].join(' ')]!;
          for (const [what, much] of Object.entries(numbers)) expect(BigInt(much)).toBe(sum[what as keyof Delta] ?? 0n);
        }
        const keys = deltas.map((it) => [it.tenant, it.day, it.productId, it.currency].join('\0'));
        expect(keys).toEqual(keys.toSorted());
      }),
      { seed: testSeed() },
    );
  });

  it('add up to the same sums however the events are split into batches', () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 20, size: 'max' }), fc.nat(20), (events, cut) => {
        const whole = naive(events);
        const parts: Record<string, Record<string, bigint>> = {};
        for (const part of [events.slice(0, cut), events.slice(cut)].flatMap((it) => new Sums().add(it).deltas())) {
          const { tenant, day, productId, currency, ...numbers } = part;
          const sum = (parts[[tenant, day, productId, currency].join(' ')] ??= {});
          for (const [what, much] of Object.entries(numbers)) sum[what] = (sum[what] ?? 0n) + BigInt(much);
        }
        for (const [key, sum] of Object.entries(whole))
          for (const [what, much] of Object.entries(sum)) expect(parts[key]![what]).toBe(much);
      }),
      { seed: testSeed() },
    );
  });
});

describe('the outlook', () => {
  const now = new Date('2026-11-30T12:00:00Z');

  it('uses the whole days before today', () => {
    expect(windowBefore(now, 28)).toEqual({ from: '2026-11-02', to: '2026-11-29' });
  });

  it('divides the available stock by the units sold per day', () => {
    expect(outlookOf('mug', 30, 56, 28, now)).toMatchObject({
      ...{ sold_per_day: 2, days_left: 15, out_of_stock_on: '2026-12-15' },
    });
    expect(outlookOf('mug', 0, 56, 28, now)).toMatchObject({ days_left: 0, out_of_stock_on: '2026-11-30' });
  });

  it('has no out-of-stock date if nothing is sold, returns exceed sales, or the date is out of range', () => {
    for (const [available, sold] of [
      [30, 0],
      [30, -5],
      [1_000_000_000_000, 1],
    ] as const)
      expect(outlookOf('mug', available, sold, 28, now).out_of_stock_on).toBeNull();
    expect(outlookOf('mug', 30, -5, 28, now)).toMatchObject({ sold: -5, sold_per_day: 0, days_left: null });
  });
});
