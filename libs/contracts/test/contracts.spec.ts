import { describe, expect, it } from '@jest/globals';
import { z } from 'zod';
import {
  cacheContract,
  inventoryContract,
  isErrorCode,
  logBeginning,
  orderContract,
  paymentContract,
  type Contract,
  type Operation,
} from '../src/index.js';
import * as contracts from '../src/index.js';

const id = '019a5f00-0000-7000-8000-00000000000a';
const at = new Date('2026-11-05T06:07:08.009Z');
const orderId = '019a5f00-0000-7000-8000-00000000000b';
const extremes = [1, 1_000_000];

/** For every operation, requests and replies that together use everything in its schemas. */
const samples: Record<string, { requests: unknown[]; replies: unknown[] }> = {
  'inventory.reserve': {
    requests: [
      {
        inventory_id: id,
        reservations: [
          { reservation_id: id, order_id: orderId, lines: [{ product_id: 'ä "quoted" 🦊', quantity: 1 }] },
          {
            reservation_id: id,
            order_id: orderId,
            lines: extremes.map((quantity) => ({ product_id: '__proto__', quantity, unit_price_minor: 0 })),
            items_total: { at_least: Number.MIN_SAFE_INTEGER, at_most: Number.MAX_SAFE_INTEGER },
          },
        ],
        hold_ms: 600_000,
      },
    ],
    replies: [
      {
        decisions: [
          { outcome: 'held', order_id: orderId },
          { outcome: 'released', order_id: orderId },
          { outcome: 'released', order_id: null },
          { outcome: 'out-of-stock', shortages: [{ product_id: 'a', requested: 2, available: 0 }] },
          { outcome: 'unknown-product', product_ids: ['a', 'b'] },
          { outcome: 'currency-mismatch', currencies: ['GBP', 'EUR'] },
          { outcome: 'total-outside', items_total_minor: 3 },
          { outcome: 'total-outside', items_total_minor: null },
        ],
        products: [{ product_id: 'a', name: '', unit_price_minor: 100_000_000_000, currency: 'GBP' }],
      },
      { decisions: [], products: [] },
    ],
  },
  'inventory.settle': {
    requests: [
      {
        inventory_id: id,
        effects: [
          { reservation_id: id, version: 1, kind: 'confirm' },
          { reservation_id: id, version: 2, kind: 'release', lines: [] },
          { reservation_id: id, version: 3, kind: 'fulfil', lines: [{ product_id: 'a', quantity: 2_000_000_000 }] },
          { reservation_id: id, version: 4, kind: 'restock', lines: [{ product_id: 'a', quantity: 1 }] },
        ],
      },
    ],
    replies: [
      { applied: 1, repeated: 0, impossible: [{ reservation_id: id, version: 3 }] },
      { applied: 0, repeated: 4, impossible: [] },
    ],
  },
  'inventory.stock': {
    requests: [{ product_id: '__proto__' }],
    replies: [
      { stock: null },
      { stock: { product_id: 'ä 🦊', on_hand: 1_000_000_000_000, reserved: 2, available: 999_999_999_998, sold: 3 } },
    ],
  },
  'order.events': {
    requests: [
      { after: logBeginning, limit: 1, types: null },
      { after: '18446744073709551615-9223372036854775807', limit: 5_000, types: ['order.placed'] },
    ],
    replies: [
      { events: [], until: logBeginning, is_more: false },
      {
        events: [
          {
            ...{ specversion: '1.0', id: `${orderId}:1`, source: '/orders', type: 'order.placed', subject: orderId },
            ...{ time: at, tenantid: 'default', sequence: logBeginning },
            traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
            data: {
              ...{ version: 1, status: 'confirmed', currency: 'GBP', details: {} },
              order: {
                ...{ customer_id: 'ä "quoted" 🦊', reference: null, total_minor: Number.MAX_SAFE_INTEGER },
                lines: [{ product_id: '__proto__', name: '', quantity: 1_000_000, unit_price_minor: 0 }],
              },
            },
          },
          {
            ...{ specversion: '1.0', id: `${orderId}:2`, source: '/orders', type: 'order.returned', subject: orderId },
            ...{ time: at, tenantid: 'acme', sequence: logBeginning },
            data: { ...{ version: 2, status: 'returned', currency: 'GBP' }, details: { reason: 'r', lines: [] } },
          },
        ],
        until: logBeginning,
        is_more: true,
      },
    ],
  },
  'inventory.join': {
    requests: [{ orders_id: '01913c3c-6a5c-7b3e-8000-000000000001' }],
    replies: [{ inventory_id: id }, {}],
  },
  'inventory.overdue': {
    requests: [
      { after: null, limit: 1 },
      { after: null, part: 3, limit: 500 },
      { after: at, limit: 500 },
    ],
    replies: [
      { holds: [], looked_at: at, parts: 4 },
      { holds: [{ tenant_id: 'default', reservation_id: id, order_id: orderId }], looked_at: at },
      { holds: [], looked_at: at },
    ],
  },
  'inventory.prepare': {
    requests: [
      {
        reservations: [{ reservation_id: id, order_id: orderId, lines: [{ product_id: 'a', quantity: 1 }] }],
        hold_ms: 1,
        branch_id: id,
      },
    ],
    replies: [{ decisions: [{ outcome: 'held', order_id: orderId }], products: [] }],
  },
  'inventory.finish': {
    requests: [
      { branch_id: id, outcome: 'commit' },
      { branch_id: id, outcome: 'rollback' },
    ],
    replies: [{}],
  },
  'inventory.in_doubt': { requests: [{}], replies: [{ branches: [{ branch_id: id, age_ms: 0.5 }] }] },
  'payment.perform': {
    requests: [
      {
        operations: [
          {
            ...{ operation_id: id, order_id: orderId, kind: 'authorise', method: 'simulated', token: null },
            ...{ amount_minor: 0, currency: 'GBP' },
          },
          { operation_id: id, order_id: orderId, kind: 'capture', amount_minor: null },
          { operation_id: id, order_id: orderId, kind: 'refund', amount_minor: 1 },
          { operation_id: id, order_id: orderId, kind: 'reverse' },
        ],
      },
    ],
    replies: [
      {
        outcomes: [
          { outcome: 'succeeded', amount_minor: Number.MAX_SAFE_INTEGER },
          { outcome: 'refused', reason: 'card-declined' },
          { outcome: 'open', reason: '' },
        ],
      },
    ],
  },
  'payment.read': {
    requests: [{ order_id: orderId }],
    replies: [
      { payment: null },
      {
        payment: {
          ...{ order_id: orderId, method: 'manual', currency: 'GBP', amount_minor: 3, authorised_minor: 3 },
          ...{
            captured_minor: 2,
            refunded_minor: 1,
            reversed: false,
            customer_action: { method: 'stripe', client_secret: 's' },
            created_at: at,
            updated_at: at,
          },
          operations: [
            { operation_id: id, kind: 'void', amount_minor: 0, state: 'open', reason: null, at },
            { operation_id: id, kind: 'refund', amount_minor: 1, state: 'refused', reason: 'no', at },
          ],
        },
      },
    ],
  },
  'cache.get': {
    requests: [{ key: 'a\0b' }, { key: 'k', namespace: 'n' }],
    replies: [
      { found: false },
      ...[null, 0, '', [], { deep: [{ a: null }] }].map((value) => ({
        found: true,
        value,
        version: 'v',
        is_stale: false,
      })),
    ],
  },
  'cache.lease': {
    requests: [
      { key: 'k', lease_ms: 1 },
      { key: 'k', namespace: 'n', lease_ms: 60_000, tags: ['t'] },
    ],
    replies: [
      { found: true, value: null, version: 'v' },
      { found: false, lease: 'l' },
      { found: false, lease: null },
    ],
  },
  'cache.put': {
    requests: [
      { key: 'k', value: null },
      { key: 'k', value: { a: [1] }, ttl_ms: 1, tags: ['t'], namespace: 'n', if_version: null },
      { key: 'k', value: 1, if_version: ['v', 'w'] },
    ],
    replies: [
      { key: 'k', version: 'v', expires_at: null },
      { key: 'k', version: 'v', expires_at: at },
    ],
  },
  'cache.delete': { requests: [{ keys: ['a', 'b'] }, { keys: ['a'], if_version: 'v' }], replies: [{}] },
  'cache.batch': {
    requests: [{}, { delete: ['a'], put: [{ key: 'k', value: 1 }], get: ['k', 'l'], namespace: 'n' }],
    replies: [
      {
        found: [{ key: 'k', value: null, version: 'v', is_stale: true }],
        missing: ['l'],
        written: [{ key: 'k', version: 'v', expires_at: at }],
      },
    ],
  },
  'cache.invalidate': { requests: [{}, { tags: ['t'], namespace: 'n' }], replies: [{}] },
  'cache.increment': { requests: [{ key: 'k', by: -1, ttl_ms: 5 }], replies: [{ key: 'k', count: -1 }] },
  'cache.statistics': {
    requests: [{}],
    replies: [
      {
        ...{ l1_hits: 1, l2_hits: 2, stale_hits: 3, misses: 4, loads: 5, load_failures: 6, loads_spared: 7 },
        ...{ fills_refused: 8, unavailable: 9, is_l1_used: true },
        l1: { entries: 1, bytes: 2, max_bytes: 3, evictions: 4, promotions_refused: 5, leases_evicted: 6 },
        latency_ms: {
          redis: { count: 1, p50: 0.1, p99: 0.2, max: 0.3 },
          load: { count: 0, p50: 0, p99: 0, max: 0 },
        },
        hot_keys: [{ namespace: 'n', key: 'k', reads: 64 }],
      },
    ],
  },
};

const operations = ([inventoryContract, orderContract, paymentContract, cacheContract] as Contract[]).flatMap((it) =>
  Object.entries(it.operations).map(([name, operation]): [string, Operation] => [`${it.name}.${name}`, operation]),
);

/** Encodes a value to JSON and decodes it again, like a message. */
const travelled = (schema: z.ZodType, value: unknown): unknown =>
  z.decode(schema, JSON.parse(JSON.stringify(z.encode(schema, value))));

describe.each(operations)('%s', (name, operation) => {
  const { requests, replies } = samples[name] ?? { requests: [], replies: [] };

  it('preserves its requests and replies through encoding, JSON and decoding', () => {
    expect(requests).not.toEqual([]);
    for (const it of requests) expect(travelled(operation.request, it)).toEqual(it);
    for (const it of replies) expect(travelled(operation.reply, it)).toEqual(it);
  });

  it('ignores members of requests and replies that a newer version has added', () => {
    const added = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(added);
      if (typeof value !== 'object' || value === null) return value;
      return {
        ...Object.fromEntries(Object.entries(value).map(([key, it]) => [key, added(it)])),
        added_by_a_newer_version: 1,
      };
    };
    const decoded = (schema: z.ZodType, value: unknown) =>
      z.safeDecode(schema, added(JSON.parse(JSON.stringify(z.encode(schema, value)))));
    for (const it of requests) expect(decoded(operation.request, it).error?.message).toBeUndefined();
    for (const it of replies) expect(decoded(operation.reply, it).error?.message).toBeUndefined();
  });

  it('declares known error codes, a deadline and a maximum size', () => {
    for (const code of operation.errors) expect(isErrorCode(code)).toBe(true);
    expect(operation.deadlineMs).toBeGreaterThan(0);
    expect(operation.maxBytes).toBeGreaterThan(0);
  });
});

it('reservation ids are normalised to lower case', () => {
  const { request } = inventoryContract.operations.settle;
  const effect = { reservation_id: id.toUpperCase(), version: 1, kind: 'confirm' as const };
  expect(request.parse({ effects: [effect] }).effects[0]!.reservation_id).toBe(id);
});

it('a cache put requires a value', () => {
  const { request } = cacheContract.operations.put;
  expect(request.safeParse({ key: 'k' }).success).toBe(false);
  expect(request.safeParse({ key: 'k', value: undefined }).success).toBe(false);
});

it('examples of schemas are valid, and the main resources have one', () => {
  const shown = Object.values<unknown>(contracts).flatMap((it) =>
    it instanceof z.ZodType ? ((it.meta()?.examples ?? []) as unknown[]).map((example) => ({ it, example })) : [],
  );
  for (const { it, example } of shown) expect(it.safeParse(example).error?.message).toBeUndefined();
  const ids = shown.map(({ it }) => it.meta()?.id);
  expect(ids).toEqual(expect.arrayContaining(['Order', 'OrderEvent', 'HistoryEntry', 'Payment', 'Product', 'Stock']));
});
