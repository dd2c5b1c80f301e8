import { describe, expect, it } from '@jest/globals';
import type { Order } from '../support/api.js';
import { contradictions, type ClientLog, type KeptOrder, type RefundAttempt } from '../support/history.js';
import type { Attempt } from '../support/load.js';

const order = (id: string, change: Partial<Order> = {}): Order =>
  ({
    order_id: id,
    status: 'confirmed',
    customer_id: 'c',
    currency: 'GBP',
    total_minor: 500,
    version: 1,
    lines: [
      {
        line: 1,
        product_id: 'p',
        name: 'P',
        quantity: 2,
        unit_price_minor: 250,
        fulfilled: 0,
        returned: 0,
      },
    ],
    ...change,
  }) as Order;

const kept = (id: string, key: string | null, change: Partial<KeptOrder> = {}): KeptOrder => ({
  ...order(id),
  idempotency_key: key,
  statuses: ['confirmed'],
  refunds: [],
  ...change,
});

const attempt = (key: string, outcome?: number | string, rest: Partial<Attempt> = {}): Attempt => ({
  key,
  body: {},
  ...(outcome !== undefined && { outcome }),
  ...rest,
});
const acknowledged = (key: string, id: string): Attempt => attempt(key, 201, { order: order(id) });
const problem = (key: string, status: number, code: string, detail = ''): Attempt =>
  attempt(key, status, { text: JSON.stringify({ code, detail }) });
const changedTo = (id: string, change: Partial<Order>) => ({ orderId: id, outcome: 200, order: order(id, change) });

const brokenBy = (log: ClientLog, orders: KeptOrder[]): string[] => contradictions(log, orders).map((it) => it.broken);

describe('what clients were told, held against what is kept', () => {
  it.each<[string, Attempt[], KeptOrder[]]>([
    ['an acknowledged order', [acknowledged('k', 'a')], [kept('a', 'k')]],
    ['one acknowledged twice', [acknowledged('k', 'a'), acknowledged('k', 'a')], [kept('a', 'k')]],
    ['no answer and an order', [attempt('k')], [kept('a', 'k')]],
    ['no answer and none', [attempt('k', 'ECONNRESET')], []],
    ['a failure and an order', [problem('k', 503, 'unavailable')], [kept('a', 'k')]],
    ['one that still runs', [problem('k', 409, 'request-in-progress')], [kept('a', 'k')]],
    ['a refusal', [problem('k', 503, 'unavailable'), problem('k', 409, 'out-of-stock')], []],
    ['a closed door', [attempt('k', 'ECONNREFUSED')], []],
    ['a closed door, then an order', [attempt('k', 'ECONNREFUSED'), acknowledged('k', 'a')], [kept('a', 'k')]],
    ['an order of somebody else', [], [kept('a', 'k'), kept('b', null), kept('c', null)]],
  ])('accepts %s', (_, placements, orders) => expect(brokenBy({ placements }, orders)).toEqual([]));

  it.each<[string, Attempt[], KeptOrder[], string[]]>([
    [
      'an order that is gone',
      [acknowledged('k', 'a')],
      [],
      ['an acknowledged order is gone', 'an acknowledged order is not kept under its key'],
    ],
    [
      'another total',
      [acknowledged('k', 'a')],
      [kept('a', 'k', { total_minor: 501 })],
      ['an acknowledged order has become another one'],
    ],
    [
      'other lines',
      [acknowledged('k', 'a')],
      [kept('a', 'k', { lines: [] })],
      ['an acknowledged order has become another one'],
    ],
    [
      'a key that was lost',
      [acknowledged('k', 'a')],
      [kept('a', null)],
      ['an acknowledged order is not kept under its key'],
    ],
    ['two orders a key', [acknowledged('k', 'a')], [kept('a', 'k'), kept('b', 'k')], ['a key has several orders']],
    [
      'two answers a key',
      [acknowledged('k', 'a'), acknowledged('k', 'b')],
      [kept('a', 'k'), kept('b', null)],
      ['a key was answered with several orders', 'an acknowledged order is not kept under its key'],
    ],
    [
      'a refusal with an order',
      [problem('k', 409, 'out-of-stock'), attempt('k')],
      [kept('a', 'k')],
      ['what was refused has an order'],
    ],
    [
      'an order behind a closed door',
      [attempt('k', 'ECONNREFUSED')],
      [kept('a', 'k')],
      ['what had no effect has an order'],
    ],
    [
      'an order in spite of a promise',
      [problem('k', 503, 'unavailable', 'It has had no effect.')],
      [kept('a', 'k')],
      ['what had no effect has an order'],
    ],
    [
      'an order of a fault',
      [problem('k', 400, 'invalid-request')],
      [kept('a', 'k')],
      ['what had no effect has an order'],
    ],
  ])('complains of %s', (_, placements, orders, broken) => expect(brokenBy({ placements }, orders)).toEqual(broken));

  it('follows an order through its changes', () => {
    const log = {
      placements: [acknowledged('k', 'a')],
      changes: [changedTo('a', { version: 2, status: 'fulfilled' })],
    };
    const later = { version: 3, statuses: ['confirmed', 'fulfilled', 'returned'] };
    expect(brokenBy(log, [kept('a', 'k', later)])).toEqual([]);
    const lost = { version: 2, statuses: ['confirmed', 'cancelled'] };
    expect(brokenBy(log, [kept('a', 'k', lost)])).toEqual(['an acknowledged change is gone']);
    expect(brokenBy(log, [kept('a', 'k')])).toEqual(['an acknowledged change is gone']);
    const unanswered = { ...log, changes: [{ orderId: 'a', outcome: 'ECONNRESET' }] };
    expect(brokenBy(unanswered, [kept('a', 'k')])).toEqual([]);
  });
});

describe('what clients were told of refunds, held against what was given back', () => {
  const asked = (key: string, amountMinor: number, rest: Partial<RefundAttempt> = {}): RefundAttempt => ({
    ...{ key, orderId: 'a', amountMinor },
    ...rest,
  });
  const done = (key: string, amount: number): RefundAttempt =>
    asked(key, amount, {
      outcome: 201,
      move: { move_id: key, order_id: 'a', kind: 'refund', amount_minor: amount, status: 'succeeded' },
    });
  const denied = (key: string, amount: number): RefundAttempt =>
    asked(key, amount, { outcome: 409, text: JSON.stringify({ code: 'payment-refused' }) });
  const broken = (refunds: RefundAttempt[], given: number[]): string[] =>
    brokenBy({ placements: [], refunds }, [kept('a', null, { refunds: given })]);

  it.each<[string, RefundAttempt[], number[]]>([
    ['what was acknowledged', [done('k', 5), done('l', 5)], [5, 5]],
    ['one acknowledged twice', [asked('k', 5), done('k', 5), done('k', 5)], [5]],
    ['no answer and a refund', [asked('k', 5)], [5]],
    ['no answer and none', [asked('k', 5, { outcome: 'ECONNRESET' })], []],
    ['a refusal', [asked('k', 5), denied('k', 5)], []],
  ])('accepts %s', (_, refunds, given) => expect(broken(refunds, given)).toEqual([]));

  it.each<[string, RefundAttempt[], number[], string]>([
    ['one that is gone', [done('k', 5), done('l', 5)], [5], 'an acknowledged refund is gone'],
    ['one of another amount', [done('k', 5)], [6], 'an acknowledged refund is gone'],
    ['one made twice', [done('k', 5), done('k', 5)], [5, 5], 'money was given back that nobody asked for'],
    ['one that was refused', [denied('k', 5)], [5], 'money was given back that nobody asked for'],
  ])('finds %s', (_, refunds, given, said) => {
    expect(broken(refunds, given)[0]).toContain(said);
  });
});
