import { describe, expect, it } from '@jest/globals';
import type { Order } from '../support/api.js';
import {
  contradictions,
  type CaptureAttempt,
  type ClientLog,
  type KeptOrder,
  type RefundAttempt,
} from '../support/history.js';
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
  captures: [],
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

describe('the comparison of the answers to clients with the stored orders', () => {
  it.each<[string, Attempt[], KeptOrder[]]>([
    ['an acknowledged order', [acknowledged('k', 'a')], [kept('a', 'k')]],
    ['an order acknowledged twice', [acknowledged('k', 'a'), acknowledged('k', 'a')], [kept('a', 'k')]],
    ['an order without an answer', [attempt('k')], [kept('a', 'k')]],
    ['no order and no answer', [attempt('k', 'ECONNRESET')], []],
    ['an order that was answered with 503', [problem('k', 503, 'unavailable')], [kept('a', 'k')]],
    ['an order that was answered as still in progress', [problem('k', 409, 'request-in-progress')], [kept('a', 'k')]],
    ['a refused request', [problem('k', 503, 'unavailable'), problem('k', 409, 'out-of-stock')], []],
    ['a refused connection', [attempt('k', 'ECONNREFUSED')], []],
    ['a refused connection, then an order', [attempt('k', 'ECONNREFUSED'), acknowledged('k', 'a')], [kept('a', 'k')]],
    ['orders of other clients', [], [kept('a', 'k'), kept('b', null), kept('c', null)]],
  ])('accepts %s', (_, placements, orders) => expect(brokenBy({ placements }, orders)).toEqual([]));

  it.each<[string, Attempt[], KeptOrder[], string[]]>([
    [
      'a missing order',
      [acknowledged('k', 'a')],
      [],
      ['an acknowledged order is gone', 'an acknowledged order is not kept under its key'],
    ],
    [
      'a changed total',
      [acknowledged('k', 'a')],
      [kept('a', 'k', { total_minor: 501 })],
      ['an acknowledged order has become another one'],
    ],
    [
      'changed lines',
      [acknowledged('k', 'a')],
      [kept('a', 'k', { lines: [] })],
      ['an acknowledged order has become another one'],
    ],
    ['a lost key', [acknowledged('k', 'a')], [kept('a', null)], ['an acknowledged order is not kept under its key']],
    [
      'two orders under one key',
      [acknowledged('k', 'a')],
      [kept('a', 'k'), kept('b', 'k')],
      ['a key has several orders'],
    ],
    [
      'two answers under one key',
      [acknowledged('k', 'a'), acknowledged('k', 'b')],
      [kept('a', 'k'), kept('b', null)],
      ['a key was answered with several orders', 'an acknowledged order is not kept under its key'],
    ],
    [
      'an order for a refused request',
      [problem('k', 409, 'out-of-stock'), attempt('k')],
      [kept('a', 'k')],
      ['what was refused has an order'],
    ],
    [
      'an order in spite of a refused connection',
      [attempt('k', 'ECONNREFUSED')],
      [kept('a', 'k')],
      ['what had no effect has an order'],
    ],
    [
      'an order answered with "no effect"',
      [problem('k', 503, 'unavailable', 'It has had no effect.')],
      [kept('a', 'k')],
      ['what had no effect has an order'],
    ],
    [
      'an order for an invalid request',
      [problem('k', 400, 'invalid-request')],
      [kept('a', 'k')],
      ['what had no effect has an order'],
    ],
  ])('reports %s', (_, placements, orders, broken) => expect(brokenBy({ placements }, orders)).toEqual(broken));

  it('reports an acknowledged change that is missing', () => {
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

describe('the comparison of the answers to clients with the stored refunds', () => {
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
    ['acknowledged refunds', [done('k', 5), done('l', 5)], [5, 5]],
    ['a refund acknowledged twice', [asked('k', 5), done('k', 5), done('k', 5)], [5]],
    ['a refund without an answer', [asked('k', 5)], [5]],
    ['no refund and no answer', [asked('k', 5, { outcome: 'ECONNRESET' })], []],
    ['a refused request', [asked('k', 5), denied('k', 5)], []],
  ])('accepts %s', (_, refunds, given) => expect(broken(refunds, given)).toEqual([]));

  it.each<[string, RefundAttempt[], number[], string]>([
    ['a missing refund', [done('k', 5), done('l', 5)], [5], 'an acknowledged refund is gone'],
    ['a refund of another amount', [done('k', 5)], [6], 'an acknowledged refund is gone'],
    ['a refund made twice', [done('k', 5), done('k', 5)], [5, 5], 'money was given back that nobody asked for'],
    ['a refund for a refused request', [denied('k', 5)], [5], 'money was given back that nobody asked for'],
  ])('reports %s', (_, refunds, given, said) => {
    expect(broken(refunds, given)[0]).toContain(said);
  });
});

describe('the comparison of the answers to clients with the stored captures', () => {
  const asked = (key: string, amountMinor: number | null): CaptureAttempt => ({ key, orderId: 'a', amountMinor });
  const done = (key: string, amountMinor: number | null, amount: number): CaptureAttempt => ({
    ...{ ...asked(key, amountMinor), outcome: 201 },
    move: { move_id: key, order_id: 'a', kind: 'capture', amount_minor: amount, status: 'succeeded' },
  });
  const broken = (captures: CaptureAttempt[], made: number[]): string[] =>
    brokenBy({ placements: [], captures }, [kept('a', null, { captures: made })]);

  it.each<[string, CaptureAttempt[], number[]]>([
    ['captures of an amount and of the rest', [done('k', 5, 5), done('l', null, 7)], [5, 7]],
    ['a capture of everything without an answer', [asked('k', 5), asked('l', null)], [7, 5]],
  ])('accepts %s', (_, captures, made) => expect(broken(captures, made)).toEqual([]));

  it.each<[string, CaptureAttempt[], number[], string]>([
    ['a missing capture', [done('k', null, 5)], [6], 'an acknowledged capture is gone'],
    ['a capture that nobody asked for', [asked('k', 5)], [6], 'money was captured that nobody asked for'],
  ])('reports %s', (_, captures, made, said) => {
    expect(broken(captures, made)[0]).toContain(said);
  });
});
