import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { adjustmentKinds, orderStatuses } from '#contracts';
import { eventually, testDatabase } from '#testing';
import pg from 'pg';
import { AppProcess } from '../support/app-process.js';
import { Api, ok, type EventPage, type Order, type OrderPage, type Problem } from '../support/api.js';
import { fresh, randomOf } from '../support/fresh.js';
import { foreignGrpcOrSkip, runForeignClient } from '../support/foreign-client.js';
import { GrpcApi, bytesOf, ordersService, type MessageStream, type Refusal } from '../support/grpc.js';
import { servicePorts, startPlan, tcpAddresses, type Shape } from '../support/shapes.js';

interface GrpcOrder {
  order_id: string;
  status: string;
  total_minor: number;
  lines: { product_id: string }[];
  [member: string]: unknown;
}

interface GrpcPage {
  orders: GrpcOrder[];
  next_page_token: string;
}

let shape: Shape;
let grpcAt: string;
let databaseUrl: string;
let grpc: GrpcApi;
/** The REST APIs of order and of inventory. */
let rest: Api;
let shelf: Api;

/** Starts order and inventory; the requests here need no other service. */
beforeAll(async () => {
  const at = await tcpAddresses();
  const database = await testDatabase();
  const [order, inventory, port] = (await servicePorts(3)) as [number, number, number];
  databaseUrl = database.url;
  const common = { DATABASE_URL: database.url, INVENTORY_AT: at.inventory, PAYMENT_AT: at.payment, CACHE_AT: at.cache };
  const logged = { LOG_REQUESTS: 'true', LOG_FORMAT: 'json' };
  grpcAt = `127.0.0.1:${port}`;
  shape = await startPlan('order with gRPC', {
    services: [
      {
        app: 'order',
        port: order,
        environment: { ...common, ...logged, ORDER_LISTEN: at.order, ORDER_GRPC_LISTEN: grpcAt },
      },
      { app: 'inventory', port: inventory, environment: { ...common, INVENTORY_LISTEN: at.inventory } },
    ],
    databaseUrls: () => Promise.reject(new Error('nobody looks into the tables here')),
    release: () => database.stop(),
  });
  rest = new Api(shape.service('order').url);
  shelf = new Api(shape.service('inventory').url);
  grpc = new GrpcApi(grpcAt);
});

afterAll(async () => {
  grpc?.close();
  await shape?.stop();
});

const named = (text: string, prefix: string): string => prefix + text.toUpperCase().replaceAll('-', '_');

const moment = (text: string) => ({
  seconds: Math.floor(Date.parse(text) / 1_000),
  nanos: (Date.parse(text) % 1_000) * 1e6,
});

/** A REST order in its gRPC form, without the metadata, which REST has as plain JSON. */
const inGrpc = ({ created_at, updated_at, metadata: _, reference, payment_method, ...order }: Order) => ({
  ...order,
  ...(reference !== null && { reference }),
  ...(payment_method !== null && { payment_method }),
  status: named(order.status, 'ORDER_STATUS_'),
  adjustments: order.adjustments.map((it) => ({ ...it, kind: named(it.kind, 'ADJUSTMENT_KIND_') })),
  create_time: moment(created_at),
  update_time: moment(updated_at),
  ...{ personal: 'PERSONAL_DATA_UNSPECIFIED', contact: null, shipping_address: null },
});

const withoutMetadata = ({ metadata: _, ...order }: GrpcOrder) => order;

const oneOf = (product_id: string, quantity = 1) => ({ customer_id: 'c-1', lines: [{ product_id, quantity }] });

describe('an order over gRPC', () => {
  it('equals the order that REST returns, in every member', async () => {
    const product = await shelf.product({ price: 250 });
    const placed = await grpc.ok<GrpcOrder>('PlaceOrder', {
      customer_id: 'c-ö-1',
      lines: [
        { product_id: product, quantity: 2 },
        { product_id: product, quantity: 1, unit_price_minor: 0 },
      ],
      reference: 'R-1',
      adjustments: [
        { kind: 'ADJUSTMENT_KIND_DISCOUNT', label: 'Loyal', amount_minor: 100 },
        { kind: 'ADJUSTMENT_KIND_TAX', label: 'None', amount_minor: 0 },
      ],
      expected_total_minor: 400,
      metadata: {
        fields: {
          a: {
            structValue: { fields: { b: { listValue: { values: [{ numberValue: 0 }, { boolValue: false }] } } } },
          },
          c: { nullValue: 'NULL_VALUE' },
          '': { stringValue: 'ä' },
        },
      },
      payment: { method: 'manual' },
    });
    const order = await rest.order(placed.order_id);
    expect(order.metadata).toEqual({ a: { b: [0, false] }, c: null, '': 'ä' });
    expect(order).toMatchObject({ customer_id: 'c-ö-1', total_minor: 400, payment_method: 'manual' });
    const got = await eventually(async () => {
      const found = await grpc.ok<GrpcOrder>('GetOrder', { order_id: placed.order_id });
      expect(withoutMetadata(found)).toEqual(inGrpc(await rest.order(placed.order_id)));
      return found;
    });
    expect(got.metadata).toEqual(placed.metadata);
  });

  it('has each status and kind of adjustment of REST', () => {
    // Names that are not in the .proto are not encoded.
    const encoded = [
      ...orderStatuses.map((it) => bytesOf('ListOrders', { status: named(it, 'ORDER_STATUS_') })),
      ...adjustmentKinds.map((it) => bytesOf('PlaceOrder', { adjustments: [{ kind: named(it, 'ADJUSTMENT_KIND_') }] })),
    ].map((it) => it.toString('hex'));
    const nothing = [bytesOf('ListOrders', {}), bytesOf('PlaceOrder', { adjustments: [{}] })].map((it) =>
      it.toString('hex'),
    );
    expect(new Set([...encoded, ...nothing]).size).toBe(encoded.length + nothing.length);
  });

  it('is logged with method, duration and outcome, and a refusal is counted under its error code', async () => {
    const product = await shelf.product({ onHand: 1 });
    const [one, two] = [fresh('request'), fresh('request')];
    const calling = (id: string) => ({ metadata: { 'x-request-id': id } });
    await grpc.ok('PlaceOrder', oneOf(product), calling(one));
    await grpc.refused('PlaceOrder', oneOf(product), calling(two));
    const rpc = `${ordersService}/PlaceOrder`;
    const lineOf = (id: string) =>
      shape
        .service('order')
        .log.split('\n')
        .find((line) => line.includes(id) && line.includes('"context":"Requests"'));
    await eventually(async () => {
      expect(JSON.parse(lineOf(one) ?? '{}')).toMatchObject({
        ...{ rpc, duration_ms: expect.any(Number), tenant: 'default' },
        msg: expect.stringMatching(/PlaceOrder OK in \d+ ms$/),
      });
      expect(JSON.parse(lineOf(two) ?? '{}')).toMatchObject({ rpc, error: 'out-of-stock' });
    });
    const metrics = await (await fetch(`${shape.service('order').url}/metrics`)).text();
    const counted = /^rpc_server_call_duration_seconds_count\{[^}]*error_type="out-of-stock"[^}]*\} \d+$/m;
    expect(metrics).toMatch(counted);
  });

  it('is placed once per idempotency key, across gRPC and REST', async () => {
    const product = await shelf.product({ onHand: 10 });
    const body = oneOf(product);
    const [one, two] = [fresh('key'), fresh('key')];
    const overGrpc = await grpc.call<GrpcOrder>('PlaceOrder', body, { key: one });
    expect(overGrpc.replayed).toBe(false);
    const again = await rest.place(body, one);
    expect(ok(again, 201).order_id).toBe(overGrpc.reply!.order_id);
    expect(again.headers.get('idempotent-replayed')).toBe('true');
    const overRest = await rest.placed(body, two);
    for (const key of [two, `"${two}"`]) {
      const repeated = await grpc.call<GrpcOrder>('PlaceOrder', body, { key });
      expect(repeated).toMatchObject({ replayed: true, reply: { order_id: overRest.order_id } });
    }
    // An order of a single product is shorthand for one line.
    const { lines: _, ...single } = { ...body, ...body.lines[0]! };
    expect(ok(await rest.place(single, one), 201).order_id).toBe(overGrpc.reply!.order_id);
    expect(await grpc.refused('PlaceOrder', oneOf(product, 2), { key: two })).toMatchObject({
      code: 'ALREADY_EXISTS',
      reason: 'idempotency-key-reused',
    });
    await eventually(async () => expect(await shelf.stock(product)).toMatchObject({ reserved: 2 }));
  });

  it('that is out of stock is refused with the same shortage over REST and when it is retried', async () => {
    const product = await shelf.product({ onHand: 1 });
    const key = fresh('key');
    const refusal = await grpc.refused('PlaceOrder', oneOf(product, 2), { key });
    expect(refusal).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'out-of-stock', replayed: false });
    const problem = (await rest.place(oneOf(product, 2), key)).body as unknown as Problem;
    expect(problem).toMatchObject({ code: 'out-of-stock', detail: refusal.message });
    const { type: _, title: _title, status: _status, code: _code, detail: _detail, ...extensions } = problem;
    expect(Object.fromEntries(Object.entries(refusal.info!).map(([name, value]) => [name, JSON.parse(value)]))).toEqual(
      extensions,
    );
    expect(await grpc.refused('PlaceOrder', oneOf(product, 2), { key })).toEqual({
      ...refusal,
      info: expect.anything(),
      replayed: true,
    });
  });

  it.each<[name: string, message: object, sent: { key?: string }, expected: Partial<Refusal>]>([
    ['a changed price', { expected_total_minor: 1 }, {}, { code: 'ABORTED', reason: 'price-changed' }],
    ['an unknown product', oneOf('nowhere'), {}, { code: 'INVALID_ARGUMENT', reason: 'unknown-product' }],
    ['an unterminated key', {}, { key: '"a' }, { code: 'INVALID_ARGUMENT', reason: 'invalid-idempotency-key' }],
    ['a key too long', {}, { key: 'k'.repeat(256) }, { code: 'INVALID_ARGUMENT', reason: 'invalid-idempotency-key' }],
  ])('is refused with %s', async (_, message, sent, expected) => {
    const product = await shelf.product();
    expect(await grpc.refused('PlaceOrder', { ...oneOf(product), ...message }, sent)).toMatchObject(expected);
  });

  it.each<[name: string, wrong: object, inJson?: object]>([
    ['no customer', { customer_id: undefined }],
    ['an empty customer', { customer_id: '' }],
    ['a long customer', { customer_id: 'c'.repeat(129) }],
    ['NUL', { customer_id: 'a\0' }],
    ['no lines', { lines: [] }, { lines: undefined }],
    ['a missing quantity', { lines: [{ product_id: 'p' }] }],
    ['a negative quantity', { lines: [{ product_id: 'p', quantity: -1 }] }],
    ['many faults', { lines: [{ quantity: 2_000_000 }, { product_id: 'p', quantity: 1, unit_price_minor: -1 }] }],
    ['too many lines', { lines: Array.from({ length: 2_001 }, () => ({ product_id: 'p', quantity: 1 })) }],
    [
      'a total beyond 2^53',
      { expected_total_minor: '9007199254740993' },
      { expected_total_minor: Number('9007199254740993') },
    ],
    [
      'a negative tax',
      { adjustments: [{ kind: 'ADJUSTMENT_KIND_TAX', label: 'x', amount_minor: -1 }] },
      {
        adjustments: [{ kind: 'tax', label: 'x', amount_minor: -1 }],
      },
    ],
    [
      'an adjustment without a kind',
      { adjustments: [{ label: 'x' }] },
      { adjustments: [{ label: 'x', amount_minor: 0 }] },
    ],
    ['an empty reference', { reference: '' }],
    ['an unknown payment method', { payment: { method: 'barter' } }],
    [
      'large metadata',
      { metadata: { fields: { a: { stringValue: 'x'.repeat(20_000) } } } },
      {
        metadata: { a: 'x'.repeat(20_000) },
      },
    ],
  ])('is refused with the same faults as over REST: %s', async (_, wrong, inJson = wrong) => {
    const refusal = await grpc.refused('PlaceOrder', { ...oneOf('p'), ...wrong });
    expect(refusal).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'invalid-request' });
    const { faults, detail } = (await rest.place({ ...oneOf('p'), ...inJson })).body as unknown as Problem;
    expect(refusal.violations!.map(({ field, description }) => ({ path: field, message: description }))).toEqual(
      faults,
    );
    expect(refusal.message).toBe(detail);
  });

  it('is refused when its metadata cannot be JSON, is nested too deeply, or has a prototype key', async () => {
    for (const value of [{ numberValue: Number.NaN }, { numberValue: Infinity }, {}]) {
      const refusal = await grpc.refused('PlaceOrder', { ...oneOf('p'), metadata: { fields: { a: value } } });
      expect(refusal).toMatchObject({ code: 'INVALID_ARGUMENT', violations: [{ field: 'metadata.a' }] });
    }
    const nested = (depth: number) => {
      let value: object = { boolValue: true };
      for (let level = 0; level < depth; level += 1) value = { structValue: { fields: { a: value } } };
      return { ...oneOf('nowhere'), metadata: { fields: { a: value } } };
    };
    expect(await grpc.refused('PlaceOrder', nested(30))).toMatchObject({ reason: 'unknown-product' });
    for (const depth of [31, 40])
      expect(await grpc.refused('PlaceOrder', nested(depth))).toMatchObject({
        code: 'INVALID_ARGUMENT',
        reason: 'invalid-request',
      });
    const proto = {
      fields: JSON.parse('{"constructor": {"structValue": {"fields": {"prototype": {"boolValue": true}}}}}'),
    };
    expect(await grpc.refused('PlaceOrder', { ...oneOf('p'), metadata: proto })).toMatchObject({
      code: 'INVALID_ARGUMENT',
      violations: [{ field: 'metadata.constructor.prototype' }],
    });
  });

  it('that does not exist is not found', async () => {
    for (const order_id of ['', 'x', '01920000-0000-7000-8000-000000000000'])
      expect(await grpc.refused('GetOrder', { order_id })).toMatchObject({
        code: 'NOT_FOUND',
        reason: 'order-not-found',
      });
  });
});

describe('orders over gRPC', () => {
  it('are listed in pages, with page tokens that REST and gRPC share, and can be filtered by status', async () => {
    const product = await shelf.product();
    const customer_id = fresh('c');
    const ids: string[] = [];
    for (let count = 0; count < 5; count += 1)
      ids.unshift((await rest.placed({ ...oneOf(product), customer_id })).order_id);
    const first = await grpc.ok<GrpcPage>('ListOrders', { customer_id, page_size: 2 });
    const second = ok(
      await rest.get<OrderPage>(`/orders?customer_id=${customer_id}&limit=2&cursor=${first.next_page_token}`),
    );
    const third = await grpc.ok<GrpcPage>('ListOrders', {
      customer_id,
      page_token: second.next_cursor!,
      page_size: 1_000,
    });
    expect([...first.orders, ...second.data, ...third.orders].map((it) => it.order_id)).toEqual(ids);
    expect(third.next_page_token).toBe('');
    const status = 'ORDER_STATUS_CONFIRMED';
    expect((await grpc.ok<GrpcPage>('ListOrders', { customer_id, status })).orders).toHaveLength(5);
    const none = await grpc.ok<GrpcPage>('ListOrders', { customer_id, status: 'ORDER_STATUS_CANCELLED' });
    expect(none).toEqual({ orders: [], next_page_token: '' });
  });

  it('are listed by range of times as over REST, and a page token continues in the same range there', async () => {
    const product = await shelf.product();
    const customer_id = fresh('c');
    const placed: Order[] = [];
    for (let count = 0; count < 4; count += 1) {
      placed.unshift(await rest.placed({ ...oneOf(product), customer_id }));
      await shelf.product();
    }
    const [from, before] = [placed.at(-1)!.created_at, placed[0]!.created_at];
    const expected = placed.filter((it) => it.created_at < before).map((it) => it.order_id);
    const range = { created_from: moment(from), created_before: moment(before) };
    const whole = await grpc.ok<GrpcPage>('ListOrders', { customer_id, ...range });
    expect(whole.orders.map((it) => it.order_id)).toEqual(expected);
    const first = await grpc.ok<GrpcPage>('ListOrders', { customer_id, ...range, page_size: 1 });
    const query = new URLSearchParams({ customer_id, created_from: from, created_before: before });
    query.set('cursor', first.next_page_token);
    const { data } = ok(await rest.get<OrderPage>(`/orders?${query.toString()}`));
    expect([...first.orders, ...data].map((it) => it.order_id)).toEqual(expected);
    const justAfter = { ...moment(from), nanos: moment(from).nanos + 1 };
    const later = await grpc.ok<GrpcPage>('ListOrders', { customer_id, created_from: justAfter });
    expect(later.orders.map((it) => it.order_id)).toEqual(
      placed.filter((it) => it.created_at > from).map((it) => it.order_id),
    );
    // The epoch, which has no fields on the wire.
    const all = await grpc.ok<GrpcPage>('ListOrders', { customer_id, created_from: {} });
    expect(all.orders).toHaveLength(4);
    const none = await grpc.ok<GrpcPage>('ListOrders', { customer_id, created_before: { seconds: -1, nanos: 5e8 } });
    expect(none.orders).toEqual([]);
  });

  it.each<[message: object, expected: Partial<Refusal>]>([
    [
      { page_size: -1 },
      { reason: 'invalid-request', violations: [expect.objectContaining({ field: 'page_size' })] as never },
    ],
    [
      { status: 99 },
      { reason: 'invalid-request', violations: [expect.objectContaining({ field: 'status' })] as never },
    ],
    [{ customer_id: '' }, { violations: [expect.objectContaining({ field: 'customer_id' })] as never }],
    [{ page_token: 'made-up' }, { reason: 'invalid-cursor' }],
    ...[
      ...[{ seconds: 253_402_300_800 }, { seconds: -62_167_219_201 }, { seconds: 2 ** 53 }],
      ...[{ nanos: -1 }, { nanos: 1_000_000_000 }],
    ].map((created_from): [object, Partial<Refusal>] => [
      { created_from },
      { reason: 'invalid-request', violations: [expect.objectContaining({ field: 'created_from' })] as never },
    ]),
    [
      { created_from: { seconds: 5 }, created_before: { seconds: 5 } },
      { reason: 'invalid-request', violations: [expect.objectContaining({ field: 'created_before' })] as never },
    ],
  ])('are not listed with the invalid request %j', async (message, expected) => {
    expect(await grpc.refused('ListOrders', message)).toMatchObject({ code: 'INVALID_ARGUMENT', ...expected });
  });

  it.each<[string, number, number, object]>([
    ['of many lines', 6, 2_000, {}],
    // 0.8 MB as JSON, and five and a half times as much over gRPC.
    ['of many numbers', 50, 1, { metadata: { numbers: Array.from({ length: 8_000 }, () => 1) } }],
  ])('%s are listed completely, in pages below the message size limit', async (_, count, ofLines, more) => {
    const product = await shelf.product({ onHand: 100_000, name: 'ö'.repeat(400) });
    const customer_id = fresh('c');
    const lines = Array.from({ length: ofLines }, () => ({ product_id: product, quantity: 1 }));
    for (let placed = 0; placed < count; placed += 1) await rest.placed({ customer_id, lines, ...more });
    const sizes: number[] = [];
    const ids = new Set<string>();
    for (let page_token = ''; sizes.length === 0 || page_token !== '';) {
      const page = await grpc.ok<GrpcPage>('ListOrders', { customer_id, page_token, page_size: 200 });
      sizes.push(page.orders.length);
      for (const { order_id } of page.orders) ids.add(order_id);
      page_token = page.next_page_token;
    }
    expect(ids.size).toBe(count);
    expect(sizes.length).toBeGreaterThan(1);
  });
});

describe('events over gRPC', () => {
  const read = async (): Promise<EventPage['data']> => {
    const all: EventPage['data'] = [];
    for (let after = ''; ;) {
      const page = ok(await rest.get<EventPage>(`/events?limit=200${after && `&after=${after}`}`));
      all.push(...page.data);
      after = page.next_cursor;
      if (page.data.length === 0) return all;
    }
  };

  const essence = ({ event_id, cursor, type, order_id, version }: Record<string, unknown>) => ({
    ...{ event_id, cursor, type, order_id, version },
  });

  it('equal those of REST in the same order, resume after a cursor, and include new events', async () => {
    const product = await shelf.product();
    for (let count = 0; count < 3; count += 1) await rest.placed(oneOf(product));
    const known = await read();
    const watching = grpc.stream('WatchEvents');
    expect((await watching.take(known.length)).map(essence)).toEqual(known.map(essence));
    const rejoined = grpc.stream('WatchEvents', { after: known.at(-2)!.cursor });
    expect(essence(await rejoined.next())).toEqual(essence(known.at(-1)!));
    const { order_id } = await grpc.ok<GrpcOrder>('PlaceOrder', oneOf(product));
    for (const stream of [watching, rejoined]) {
      const event = await stream.next();
      expect(event).toMatchObject({ type: 'order.placed', order_id, status: 'ORDER_STATUS_CONFIRMED', version: 1 });
      const [wanted] = ok(await rest.get<EventPage>(`/events?after=${known.at(-1)!.cursor}`)).data;
      expect(event['event_time']).toEqual(moment(wanted!.at));
      stream.call.cancel();
    }
  });

  it('tell the reference of a hand-over', async () => {
    const { order_id } = await grpc.ok<GrpcOrder>('PlaceOrder', oneOf(await shelf.product()));
    const before = (await read()).at(-1)!.cursor;
    ok(await rest.fulfil(order_id, { reference: 'JD0002254' }));
    const stream = grpc.stream('WatchEvents', { after: before });
    expect(await stream.next()).toMatchObject({
      ...{ type: 'order.fulfilled', order_id, status: 'ORDER_STATUS_FULFILLED' },
      data: { fields: { reference: { stringValue: 'JD0002254' } } },
    });
    stream.call.cancel();
  });

  it('are streamed to at most 100 clients, and a cancelled stream frees its place', async () => {
    await rest.placed(oneOf(await shelf.product()));
    const after = (await read()).at(-2)!.cursor;
    const open: MessageStream[] = [];
    const follow = async (): Promise<void> => {
      const stream = grpc.stream('WatchEvents', { after });
      await stream.next();
      open.push(stream);
    };
    while (open.length < 100) await follow();
    const refusal = await grpc.stream('WatchEvents').refusal();
    expect(refusal).toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'too-many-requests', retryAfterSeconds: 5 });
    for (const stream of open.splice(0)) stream.call.cancel();
    // The server frees places when it notices the cancellations.
    await eventually(follow);
    while (open.length < 50) await follow();
    for (const stream of open) stream.call.cancel();
  });

  it('are refused after an invalid cursor, and the refusal is counted and logged', async () => {
    const refusal = await grpc.stream('WatchEvents', { after: 'made-up' }).refusal();
    expect(refusal).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'invalid-cursor' });
    const metrics = await (await fetch(`${shape.service('order').url}/metrics`)).text();
    expect(metrics).toMatch(
      /^rpc_server_call_duration_seconds_count\{.*WatchEvents.*error_type="invalid-cursor".*\} 1$/m,
    );
    expect(shape.service('order').log).toMatch(/"error":"invalid-cursor".*WatchEvents invalid-cursor in/);
  });
});

describe('a gRPC message', () => {
  const message = { ...oneOf('nowhere'), reference: 'r', metadata: { fields: { a: { numberValue: 1 } } } };
  /** Status codes of server errors. */
  const ours = ['INTERNAL', 'UNKNOWN', 'UNAVAILABLE', 'DEADLINE_EXCEEDED'];

  it('of random or damaged bytes never causes a server error', async () => {
    const random = randomOf('garbage');
    const valid = bytesOf('PlaceOrder', message);
    const bytes = (count: number) => Buffer.from(Array.from({ length: count }, () => random.integer(0, 255)));
    const garbage = [
      Buffer.from([0xff]),
      // A string that is not UTF-8.
      Buffer.from([0x0a, 0x02, 0xc3, 0x28]),
      ...Array.from({ length: 100 }, () => bytes(random.integer(1, 200))),
      ...Array.from({ length: 200 }, () => {
        const changed = Buffer.from(valid);
        for (let count = random.integer(1, 4); count > 0; count -= 1)
          changed[random.integer(0, changed.length - 1)] = random.integer(0, 255);
        return random.next() < 0.3 ? changed.subarray(0, random.integer(0, changed.length)) : changed;
      }),
    ];
    for (const method of ['PlaceOrder', 'GetOrder', 'ListOrders'])
      for (const raw of garbage) {
        const { refusal } = await grpc.call(method, {}, { raw });
        expect({
          raw: raw.toString('hex'),
          method,
          ours: ours.includes(refusal?.code ?? 'OK') && refusal,
        }).toMatchObject({
          ours: false,
        });
      }
    for (const raw of garbage.slice(0, 40)) {
      const stream = grpc.stream('WatchEvents', {}, { raw });
      const ended = await Promise.race([stream.refusal(), stream.next().then(() => stream.call.cancel())]);
      if (ended) expect(ours).not.toContain(ended.code);
    }
    expect(shape.service('order').log).not.toContain('"context":"Grpc"');
  });

  it('that cannot be decoded is refused with the reason, and U+FFFD in a string is valid', async () => {
    expect(await grpc.refused('PlaceOrder', {}, { raw: Buffer.from([0x0a, 0x02, 0xc3, 0x28]) })).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('UTF-8'),
    });
    expect(await grpc.refused('PlaceOrder', {}, { raw: Buffer.from([0x0a, 0x7f, 0x41]) })).toMatchObject({
      code: 'INVALID_ARGUMENT',
      reason: 'invalid-request',
    });
    const replacement = { ...message, customer_id: 'a\ufffd' };
    expect(await grpc.refused('PlaceOrder', replacement)).toMatchObject({ reason: 'unknown-product' });
  });

  it('may have unknown fields', async () => {
    const unknown = Buffer.from([0xa2, 0x06, 0x03, 0x61, 0x62, 0x63]);
    const raw = Buffer.concat([bytesOf('PlaceOrder', message), unknown]);
    expect(await grpc.refused('PlaceOrder', {}, { raw })).toMatchObject({ reason: 'unknown-product' });
  });

  it('that is too large or has too many lines is refused', async () => {
    expect(await grpc.refused('PlaceOrder', {}, { raw: Buffer.alloc(1_048_577) })).toMatchObject({
      code: 'RESOURCE_EXHAUSTED',
    });
    expect(
      await grpc.refused('PlaceOrder', { ...message, lines: Array.from({ length: 150_000 }, () => ({ quantity: 1 })) }),
    ).toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    const many = Array.from({ length: 2_000 }, () => ({ product_id: 'x'.repeat(200) }));
    expect(await grpc.refused('PlaceOrder', { ...message, lines: many })).toMatchObject({
      code: 'INVALID_ARGUMENT',
      violations: expect.arrayContaining([expect.objectContaining({ field: 'lines.0.product_id' })]),
    });
  });
});

describe('an internal error of a gRPC call', () => {
  it('is logged once, with the tenant', async () => {
    const client = new pg.Client(databaseUrl);
    await client.connect();
    try {
      await client.query('ALTER TABLE orders.orders RENAME TO away');
      const order_id = '01920000-0000-7000-8000-000000000000';
      expect(await grpc.refused('GetOrder', { order_id })).toMatchObject({ code: 'INTERNAL' });
    } finally {
      await client.query('ALTER TABLE orders.away RENAME TO orders');
      await client.end();
    }
    await eventually(async () => {
      const lines = shape
        .log()
        .split('\n')
        .filter((it) => it.includes('/cleave.order.v1.Orders/GetOrder failed'));
      expect(lines).toEqual([expect.stringContaining('"tenant":"default"')]);
    });
  });
});

describe('the gRPC server', () => {
  const health = 'grpc.health.v1.Health';
  const stopInventory = () => process.kill(shape.service('inventory').pid, 'SIGSTOP');
  const letInventoryGo = () => process.kill(shape.service('inventory').pid, 'SIGCONT');

  it('keeps the deadline of the caller, and a retry under the same key places one order', async () => {
    const product = await shelf.product();
    const key = fresh('key');
    stopInventory();
    try {
      expect(await grpc.refused('PlaceOrder', oneOf(product), { key, deadlineMs: 300 })).toMatchObject({
        code: 'DEADLINE_EXCEEDED',
      });
    } finally {
      letInventoryGo();
    }
    const { order_id } = await grpc.ok<GrpcOrder>('PlaceOrder', oneOf(product), { key });
    expect(await grpc.ok<GrpcOrder>('PlaceOrder', oneOf(product), { key })).toMatchObject({ order_id });
    await eventually(async () => expect(await shelf.stock(product)).toMatchObject({ reserved: 1 }));
  });

  it('continues the trace of the caller', async () => {
    const traceparent = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`;
    const product = await shelf.product();
    const { order_id } = await grpc.ok<GrpcOrder>('PlaceOrder', oneOf(product), { metadata: { traceparent } });
    const client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
    const { rows } = await client.query('SELECT traceparent FROM orders.events WHERE order_id = $1', [order_id]);
    await client.end();
    expect(rows).toEqual([{ traceparent }]);
  });

  it('reports that its port is in use', async () => {
    const [port, messages] = await servicePorts(2);
    const nowhere = 'tcp://127.0.0.1:1';
    const other = new AppProcess('order', {
      ...{ PORT: String(port), DATABASE_URL: databaseUrl, INVENTORY_AT: nowhere, PAYMENT_AT: nowhere },
      ...{ ORDER_LISTEN: `tcp://127.0.0.1:${messages}`, ORDER_GRPC_LISTEN: grpcAt },
    });
    other.spawn();
    expect(await other.exit).toEqual({ code: 1, signal: null });
    expect(other.log.trimEnd().split('\n').at(-1)).toMatch(
      new RegExp(`^Cannot serve gRPC at ${grpcAt} .*EADDRINUSE.* Set ORDER_GRPC_LISTEN to an address that is free`),
    );
  });

  it('reports its health, and on shutdown answers accepted calls and ends streams with UNAVAILABLE', async () => {
    for (const service of ['', ordersService])
      expect(await grpc.ok(`${health}/Check`, { service })).toEqual({ status: 'SERVING' });
    expect(await grpc.refused(`${health}/Check`, { service: 'x' })).toMatchObject({ code: 'NOT_FOUND' });
    const product = await shelf.product();
    const before = await rest.placed(oneOf(product));
    const watched = grpc.stream(`${health}/Watch`, { service: ordersService });
    expect(await watched.next()).toEqual({ status: 'SERVING' });
    const events = grpc.stream('WatchEvents');
    let last = await events.next();
    while (last['order_id'] !== before.order_id) last = await events.next();

    stopInventory();
    let placed;
    try {
      placed = grpc.ok<GrpcOrder>('PlaceOrder', oneOf(product));
      // A later call on the same connection has been answered, so this one has been accepted.
      await grpc.ok('GetOrder', { order_id: before.order_id });
      const exit = shape.service('order').kill('SIGTERM');
      expect(await watched.next()).toEqual({ status: 'NOT_SERVING' });
      expect(await watched.refusal()).toMatchObject({ code: 'UNAVAILABLE' });
      expect(await events.refusal()).toMatchObject({
        code: 'UNAVAILABLE',
        reason: 'unavailable',
        retryAfterSeconds: 1,
      });
      letInventoryGo();
      expect(await placed).toMatchObject({ lines: [{ product_id: product }] });
      expect(await exit).toEqual({ code: 0, signal: null });
    } finally {
      letInventoryGo();
    }
    await shape.service('order').restart();
    const resumed = await eventually(async () => {
      const stream = grpc.stream('WatchEvents', { after: last['cursor'] });
      return { stream, event: await stream.next() };
    });
    expect(resumed.event).toMatchObject({ order_id: (await placed).order_id });
    resumed.stream.call.cancel();
  });
});

const foreign = foreignGrpcOrSkip(describe);

foreign('a gRPC client in another language', () => {
  it('finds the service by reflection, places, reads, lists and follows orders, and checks health', async () => {
    const product = await shelf.product({ price: 250 });
    const job = { at: grpcAt, customer: fresh('c-ü'), product, key: fresh('key') };
    const told = await runForeignClient(job);
    expect(told).toMatchObject({
      services: {
        v1: expect.arrayContaining([ordersService, 'grpc.health.v1.Health']),
        v1alpha: expect.arrayContaining([ordersService, 'grpc.health.v1.Health']),
      },
      health: 'SERVING',
      placed: { customer_id: job.customer, total_minor: '500', currency: 'GBP', status: 'ORDER_STATUS_CONFIRMED' },
      replayed: [null, 'true'],
      refused: ['NOT_FOUND', true],
      invalid: 'INVALID_ARGUMENT',
      watched: { type: 'order.placed' },
    });
    const { placed, again, got, listed, watched } = told;
    expect(again).toEqual(placed);
    expect({ ...got, update_time: placed!['update_time'] }).toEqual(placed);
    expect(listed).toEqual([placed!['order_id'], expect.any(String)].toReversed());
    expect(watched!['order_id']).toBe(placed!['order_id']);
    const order = await rest.order(placed!['order_id'] as string);
    expect(order).toMatchObject({ customer_id: job.customer, metadata: { gift: true, note: 'für Ö' } });
    expect(placed).toMatchObject({ metadata: order.metadata, create_time: order.created_at });
  });
});
