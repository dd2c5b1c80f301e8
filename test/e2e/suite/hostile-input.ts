import { beforeAll, describe, expect, it } from '@jest/globals';
import { ok, refused, type Answer, type Problem, type Sent } from '../../support/api.js';
import { fresh } from '../../support/fresh.js';
import { abandon, exchange } from '../../support/raw-http.js';
import type { World } from './world.js';

/** Raw JSON, for values that JSON.stringify would not write. */
class Json {
  constructor(readonly text: string) {}
}
const json = (text: string): Json => new Json(text);

const mark = '§raw§';

/** The value as JSON, with each `Json` in it inserted verbatim. */
const encoded = (value: unknown): string => {
  const texts: string[] = [];
  const marked = JSON.stringify(value, (_, item: unknown) =>
    item instanceof Json ? `${mark}${texts.push(item.text) - 1}` : item,
  );
  return marked.replaceAll(new RegExp(`"${mark}(\\d+)"`, 'g'), (_, index: string) => texts[Number(index)]!);
};

/** None of these is an integer from 1 to 1,000,000. */
const badQuantities: unknown[] = [
  0,
  -1,
  1.5,
  '1',
  '',
  null,
  true,
  [],
  [1],
  {},
  1_000_001,
  json('9007199254740992'),
  json('1e400'),
  json('-0'),
  json('1e-3'),
];
const badIds: unknown[] = [
  '',
  null,
  true,
  [],
  {},
  1.5,
  'x'.repeat(129),
  'x'.repeat(100_000),
  json('9007199254740992'),
  json('1e400'),
  json('"a\\u0000b"'),
  json('"a\\ud800b"'),
  json('"\\udc00"'),
];
const badTexts: unknown[] = ['', 5, null, [], {}, json('"a\\u0000b"'), json('"\\ud800"')];

/** The body with one member replaced or, for `undefined`, removed. `path` is as in faults: `lines.0.quantity`. */
const withAt = (body: object, path: string, value: unknown): object => {
  const copy = structuredClone(body) as Record<string, never>;
  const names = path.split('.');
  const last = names.pop()!;
  const parent = names.reduce<Record<string, never>>((at, name) => at[name]!, copy);
  parent[last] = value as never;
  return copy;
};

export const hostileInputTests = (world: World): void => {
  describe('hostile input', () => {
    let mug: string;
    let orderId: string;
    const order = () => ({ customer_id: 'hostile', lines: [{ product_id: mug, quantity: 1 }] });
    const alias = () => ({ customer_id: 'hostile', product_id: mug, quantity: 1 });
    const send = (method: string, path: string, body: unknown, sent: Sent = {}): Promise<Answer> =>
      world.api.send(method, path, { raw: encoded(body), key: fresh('hostile'), ...sent });
    let before: unknown;

    beforeAll(async () => {
      mug = await world.api.product({ onHand: 1_000_000 });
      orderId = (await world.api.placed({ ...alias(), quantity: 3 })).order_id;
      ok(await world.api.fulfil(orderId, { lines: [{ product_id: mug, quantity: 1 }] }));
      before = await world.ledger.footprint();
    });

    /** Sends the body with each value at the path; each must be refused with a fault at that path. */
    const refuseEach = async (
      [method, path]: readonly [string, string],
      body: object,
      at: string,
      values: unknown[],
    ): Promise<void> => {
      for (const value of values) {
        const answer = await send(method, path, withAt(body, at, value));
        try {
          refused(answer, '400 invalid-request', [at]);
        } catch (error) {
          throw new Error(`${method} ${path} with ${at} = ${encoded({ value }).slice(0, 200)}`, { cause: error });
        }
      }
    };

    it('invalid quantities are refused', async () => {
      await refuseEach(['POST', '/orders'], order(), 'lines.0.quantity', [...badQuantities, undefined]);
      await refuseEach(['POST', '/order'], alias(), 'quantity', [...badQuantities, undefined]);
      const lines = [{ product_id: mug, quantity: 1 }];
      await refuseEach(['POST', `/orders/${orderId}/fulfil`], { lines }, 'lines.0.quantity', badQuantities);
      const goods = { lines, restock: true, reason: 'x' };
      await refuseEach(['POST', `/orders/${orderId}/returns`], goods, 'lines.0.quantity', badQuantities);
    });

    it('invalid ids are refused', async () => {
      await refuseEach(['POST', '/orders'], order(), 'customer_id', [...badIds, undefined]);
      await refuseEach(['POST', '/orders'], order(), 'lines.0.product_id', [...badIds, undefined]);
      await refuseEach(['POST', '/order'], alias(), 'product_id', badIds);
      const lines = [{ product_id: mug, quantity: 1 }];
      await refuseEach(['POST', `/orders/${orderId}/fulfil`], { lines }, 'lines.0.product_id', badIds);
      const stock = [{ product_id: mug, on_hand: 1 }];
      await refuseEach(['POST', '/stock/batch'], { stock }, 'stock.0.product_id', badIds);
      const products = [{ product_id: mug, name: 'x', unit_price_minor: 1, currency: 'GBP' }];
      await refuseEach(['POST', '/products/batch'], { products }, 'products.0.product_id', badIds);
    });

    it('invalid texts are refused', async () => {
      await refuseEach(['POST', '/orders'], order(), 'reference', [...badTexts, 'x'.repeat(129)]);
      const taxed = { ...order(), adjustments: [{ kind: 'tax', label: 'x', amount_minor: 1 }] };
      await refuseEach(['POST', '/orders'], taxed, 'adjustments.0.label', [...badTexts, 'x'.repeat(501)]);
      const product = { name: 'x', unit_price_minor: 1, currency: 'GBP' };
      await refuseEach(['PUT', `/products/${mug}`], product, 'name', [...badTexts, 'x'.repeat(501)]);
      const adjustment = { delta: 1, reason: 'x' };
      await refuseEach(['POST', `/stock/${mug}/adjustments`], adjustment, 'reason', [...badTexts, 'x'.repeat(501)]);
      const goods = { lines: [{ product_id: mug, quantity: 1 }], restock: true, reason: 'x' };
      await refuseEach(['POST', `/orders/${orderId}/returns`], goods, 'reason', badTexts);
      await refuseEach(['POST', `/orders/${orderId}/cancel`], { reason: 'x' }, 'reason', badTexts.slice(1));
    });

    it('invalid amounts are refused', async () => {
      const amounts: unknown[] = [1.5, '1', null, true, [], {}, json('9007199254740992'), json('1e400')];
      await refuseEach(['POST', '/orders'], order(), 'lines.0.unit_price_minor', [...amounts, -1, 100_000_000_001]);
      await refuseEach(['POST', '/orders'], order(), 'expected_total_minor', [...amounts, -1]);
      for (const kind of ['tax', 'shipping', 'discount']) {
        const adjusted = { ...order(), adjustments: [{ kind, label: 'x', amount_minor: 1 }] };
        const values = kind === 'discount' ? amounts : [...amounts, -1];
        await refuseEach(['POST', '/orders'], adjusted, 'adjustments.0.amount_minor', [...values, undefined]);
      }
      const adjusted = { ...order(), adjustments: [{ kind: 'tax', label: 'x', amount_minor: 1 }] };
      await refuseEach(['POST', '/orders'], adjusted, 'adjustments.0.kind', ['gift', '', 'TAX', 1, null]);
      await refuseEach(['PUT', `/stock/${mug}`], { on_hand: 1 }, 'on_hand', [...amounts, -1, 1_000_000_000_001]);
    });

    it('values of the wrong type are refused', async () => {
      const wrong: unknown[] = [null, 5, 'x', true, {}];
      await refuseEach(['POST', '/orders'], order(), 'lines', [...wrong, []]);
      await refuseEach(['POST', '/orders'], order(), 'lines.0', [null, 5, 'x', true]);
      await refuseEach(['POST', '/orders'], order(), 'adjustments', wrong);
      await refuseEach(['POST', '/orders'], { ...order(), adjustments: [1] }, 'adjustments.0', [null, 5, 'x', true]);
      await refuseEach(['POST', '/orders'], order(), 'metadata', [null, 5, 'x', true, [], [{}]]);
      await refuseEach(['POST', `/orders/${orderId}/fulfil`], {}, 'lines', [...wrong, []]);
      await refuseEach(['POST', '/stock/batch'], {}, 'stock', [...wrong, []]);
    });

    it('a body that is not an object is refused', async () => {
      for (const body of [null, true, 5, 'text', [], [[]], [order()]])
        for (const [method, path] of [
          ['POST', '/orders'],
          ['POST', '/order'],
          ['POST', `/orders/${orderId}/fulfil`],
          ['POST', `/orders/${orderId}/cancel`],
          ['POST', `/orders/${orderId}/returns`],
          ['PUT', `/products/${mug}`],
          ['PUT', `/stock/${mug}`],
          ['POST', '/stock/batch'],
          ['PUT', '/cache'],
        ] as const)
          refused(await send(method, path, body), '400 invalid-request', ['']);
    });

    it('unknown members are refused by name', async () => {
      const send400 = async (path: string, body: unknown, paths: string[]) =>
        refused(await send('POST', path, body), '400 invalid-request', paths);
      await send400('/orders', { ...order(), coupon: 'x' }, ['coupon']);
      await send400('/orders', { ...order(), status: 'fulfilled', total_minor: 1 }, ['status', 'total_minor']);
      await send400('/order', { ...alias(), price: 1 }, ['price']);
      await send400('/order', { ...alias(), unit_price_minor: 1 }, ['unit_price_minor']);
      await send400('/orders', withAt(order(), 'lines.0.price', 1), ['lines.0.price']);
      await send400('/orders', { ...order(), Lines: [] }, ['Lines']);
      await send400(`/orders/${orderId}/fulfil`, { line: 1 }, ['line']);
      await send400(`/orders/${orderId}/cancel`, { force: true }, ['force']);
      await send400('/stock/batch', { stock: [{ product_id: mug, on_hand: 1, reserved: 0 }] }, ['stock.0.reserved']);
      refused(await send('POST', '/orders', { ...order(), ...alias() }), '400 invalid-request');
    });

    it('all faults of a body are reported at once', async () => {
      const body = {
        customer_id: '',
        lines: [
          { product_id: mug, quantity: 0 },
          { quantity: 1, colour: 'red' },
        ],
        expected_total_minor: -1,
      };
      refused(await send('POST', '/orders', body), '400 invalid-request', [
        'customer_id',
        'expected_total_minor',
        'lines.0.quantity',
        'lines.1.colour',
        'lines.1.product_id',
      ]);
      refused(await send('POST', '/orders', {}), '400 invalid-request');
    });

    it('more lines or adjustments than allowed are refused', async () => {
      const lines = Array.from({ length: 2_001 }, () => ({ product_id: mug, quantity: 1 }));
      refused(await send('POST', '/orders', { ...order(), lines }), '400 invalid-request', ['lines']);
      const adjustments = Array.from({ length: 101 }, () => ({ kind: 'tax', label: 'x', amount_minor: 1 }));
      refused(await send('POST', '/orders', { ...order(), adjustments }), '400 invalid-request', ['adjustments']);
    });

    it('metadata that is too large, too deep or not storable is refused', async () => {
      const deep = (levels: number): Json => json(`${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`);
      await refuseEach(['POST', '/orders'], order(), 'metadata', [
        { text: 'x'.repeat(16_384) },
        { text: '語'.repeat(5_500) },
        { text: json('"a\\u0000b"') },
        { deep: [{ text: json('"\\ud83d"') }] },
        json('{"a\\u0000b": 1}'),
        json('{"\\udfff": 1}'),
      ]);
      refused(await send('POST', '/orders', { ...order(), metadata: deep(32) }), '400 invalid-request', ['']);
      for (const number of ['1e400', '-1E+999', `1${'0'.repeat(400)}`])
        refused(
          await send('POST', '/orders', { ...order(), metadata: { deep: [json(number)] } }),
          '400 invalid-request',
          ['metadata.deep.0'],
        );
    });

    it('keys that could pollute a prototype are refused', async () => {
      for (const [body, path] of [
        [json(`{"customer_id":"x","__proto__":{"lines":[]},"lines":[]}`), '__proto__'],
        [{ ...order(), metadata: json('{"__proto__":{"admin":true}}') }, 'metadata.__proto__'],
        [{ ...order(), metadata: json('{"a":[{"\\u005f_proto__":1}]}') }, 'metadata.a.0.__proto__'],
        [{ ...order(), metadata: json('{"constructor":{"prototype":{"x":1}}}') }, 'metadata.constructor.prototype'],
      ] as const)
        refused(await send('POST', '/orders', body), '400 invalid-request', [path]);
      refused(await send('PUT', '/cache', { key: 'k', value: json('{"__proto__":1}') }), '400 invalid-request', [
        'value.__proto__',
      ]);
    });

    it('JSON that is malformed or nested too deeply is refused', async () => {
      const good = encoded(order());
      for (const raw of [
        '{',
        '}',
        '{"a":}',
        "{'a':1}",
        '{a:1}',
        '[1,]',
        'NaN',
        'undefined',
        `${good}x`,
        `${good}${good}`,
        good.slice(0, -1),
        ' ',
        '\u0000',
        '[',
        '['.repeat(100_000),
        '['.repeat(100_000) + ']'.repeat(100_000),
        '{"a":'.repeat(100_000),
        `{"metadata":${'['.repeat(50_000)}${']'.repeat(50_000)}}`,
        `{"customer_id":"${'\\"['.repeat(100_000)}`,
      ])
        for (const path of ['/orders', '/products/batch', '/cache/batch'])
          refused(await world.api.send('POST', path, { raw }), '400 invalid-request', ['']);
    });

    it('bytes that are not UTF-8 are refused', async () => {
      const [head, tail] = encoded(order()).split('hostile') as [string, string];
      for (const bytes of [
        [0xff],
        [0xc3, 0x28],
        [0xed, 0xa0, 0x80],
        [0xc0, 0xaf],
        [0xf5, 0x80, 0x80, 0x80],
        [0xe2, 0x82],
      ]) {
        const raw = Buffer.concat([Buffer.from(head), Buffer.from(bytes), Buffer.from(tail)]);
        refused(await world.api.send('POST', '/orders', { raw }), '400 invalid-request', ['']);
      }
      const utf16 = Buffer.from(encoded(order()), 'utf16le');
      refused(await world.api.send('POST', '/orders', { raw: utf16 }), '400 invalid-request', ['']);
    });

    it('a missing body is refused', async () => {
      for (const [method, path] of [
        ['POST', '/orders'],
        ['POST', '/order'],
        ['PUT', `/products/${mug}`],
        ['POST', '/products/batch'],
        ['PUT', `/stock/${mug}`],
        ['PUT', '/cache'],
      ] as const) {
        refused(await world.api.send(method, path), '400 invalid-request', ['']);
        const headers = { 'content-type': 'application/json' };
        refused(await world.api.send(method, path, { headers }), '400 invalid-request', ['']);
        refused(await world.api.send(method, path, { raw: '' }), '400 invalid-request', ['']);
      }
    });

    it('a content type other than JSON in UTF-8 is refused', async () => {
      const raw = encoded(order());
      for (const type of [
        'text/plain',
        'application/x-www-form-urlencoded',
        'multipart/form-data; boundary=x',
        'application/xml',
        'application/jsonp',
        'application/json; charset=latin1',
        'application/json; charset="utf-16"',
        'nonsense',
      ])
        for (const [method, path] of [
          ['POST', '/orders'],
          ['PUT', `/stock/${mug}`],
          ['PUT', '/cache'],
        ] as const) {
          const answer = await world.api.send(method, path, { raw, headers: { 'content-type': type } });
          refused(answer, '415 unsupported-media-type');
        }
      const typeless = await exchange(world.api.baseUrl, {
        line: 'POST /orders HTTP/1.1',
        headers: [`Content-Length: ${raw.length}`],
        body: raw,
      });
      refused(typeless, '415 unsupported-media-type');
    });

    it('a body that is too large is refused, with Content-Length or chunked', async () => {
      const announced = await exchange(world.api.baseUrl, {
        line: 'POST /orders HTTP/1.1',
        headers: ['Content-Type: application/json', 'Content-Length: 50000000'],
      });
      refused(announced, '413 payload-too-large');
      // One byte over the limit: a server that leaves a body unread may close the connection before its response is read.
      const streamed = await exchange(world.api.baseUrl, {
        line: 'POST /orders HTTP/1.1',
        headers: ['Content-Type: application/json', 'Transfer-Encoding: chunked'],
        body: `${`10000\r\n${'x'.repeat(65_536)}\r\n`.repeat(16)}1\r\nx\r\n`,
      });
      refused(streamed, '413 payload-too-large');
      const justTooLarge = await exchange(world.api.baseUrl, {
        line: 'POST /orders HTTP/1.1',
        headers: ['Content-Type: application/json', `Content-Length: ${1_048_576 + 1}`],
      });
      refused(justTooLarge, '413 payload-too-large');
      const padded = encoded({ ...order(), customer_id: '' }).padEnd(1_048_576, ' ');
      refused(await world.api.send('POST', '/orders', { raw: padded }), '400 invalid-request', ['customer_id']);
    });

    it('URLs that cannot be decoded are refused', async () => {
      const paths = [
        '/products/%',
        '/products/%zz',
        '/products/%C3%28',
        '/products/%ED%A0%80',
        '/orders/%f',
        '/stock/%%',
      ];
      const queries = ['/orders?customer_id=%', '/orders?customer_id=%zz', '/cache?key=%C3%28', '/products?cursor=%ff'];
      for (const path of [...paths, ...queries]) {
        const answer = await exchange(world.api.baseUrl, { line: `GET ${path} HTTP/1.1` });
        refused(answer, '400 invalid-request');
      }
    });

    it('ids in paths follow the same rules, and URLs that are too long are refused', async () => {
      const product = { body: { name: 'x', unit_price_minor: 1, currency: 'GBP' } };
      for (const id of ['%00', 'a%00b', 'x'.repeat(129), '%F0%9F%A7%B8'.repeat(129)]) {
        refused(await world.api.get(`/products/${id}`), '400 invalid-request', ['id']);
        refused(await world.api.send('PUT', `/products/${id}`, product), '400 invalid-request', ['id']);
        refused(await world.api.get(`/stock/${id}`), '400 invalid-request', ['product_id']);
        const stock = { body: { on_hand: 1 } };
        refused(await world.api.send('PUT', `/stock/${id}`, stock), '400 invalid-request', ['product_id']);
        const adjustment = { body: { delta: 1, reason: 'x' }, key: fresh('k') };
        refused(await world.api.send('POST', `/stock/${id}/adjustments`, adjustment), '400 invalid-request', [
          'product_id',
        ]);
      }
      refused(await world.api.get(`/products/${'x'.repeat(5_000)}`), '400 invalid-request');
      for (const path of [`/products/${'x'.repeat(40_000)}`, `/orders?customer_id=${'x'.repeat(40_000)}`]) {
        const answer = await exchange(world.api.baseUrl, { line: `GET ${path} HTTP/1.1` });
        refused(answer, '431 headers-too-large');
      }
    });

    it('methods that a path does not support are refused, and Allow names those it does', async () => {
      for (const [method, path, allowed] of [
        ['DELETE', '/orders', ['GET', 'POST']],
        ['PUT', '/orders', ['GET', 'POST']],
        ['GET', '/order', ['POST']],
        ['DELETE', `/orders/${orderId}`, ['GET']],
        ['PATCH', `/orders/${orderId}`, ['GET']],
        ['POST', `/orders/${orderId}`, ['GET']],
        ['GET', `/orders/${orderId}/cancel`, ['POST']],
        ['DELETE', `/orders/${orderId}/returns`, ['POST']],
        ['POST', `/orders/${orderId}/history`, ['GET']],
        ['DELETE', `/products/${mug}`, ['GET', 'PUT']],
        ['POST', '/products', ['GET']],
        ['PATCH', `/stock/${mug}`, ['GET', 'PUT']],
        ['GET', `/stock/${mug}/adjustments`, ['POST']],
        ['POST', '/cache', ['DELETE', 'GET', 'PUT']],
        ['POST', '/health/live', ['GET']],
      ] as const) {
        const answer = await world.api.send(method, path, method === 'GET' ? {} : { body: {} });
        refused(answer, '405 method-not-allowed');
        const named = answer.headers.get('allow')?.split(', ');
        expect([method, path, named?.filter((it) => it !== 'HEAD').toSorted()]).toEqual([method, path, allowed]);
      }
    });

    it('unknown paths are not found, and path traversal is refused', async () => {
      for (const [method, path] of [
        ['GET', '/nothing'],
        ['POST', '/order/x'],
        ['GET', '/orders/'],
        ['GET', `/orders/${orderId}/`],
        ['GET', `/orders/${orderId}/lines`],
        ['GET', `/orders/${orderId}/history/1`],
        ['GET', '/Orders'],
        ['GET', '/products/'],
        ['GET', '/stock/'],
        ['PUT', `/stock/${mug}/adjustments/1`],
        ['GET', '/cache/key'],
        ['GET', '/health'],
        ['GET', '/.env'],
      ] as const) {
        const answer = await world.api.send(method, path, method === 'GET' ? {} : { body: {} });
        expect([path, refused(answer, '404 not-found').status]).toEqual([path, 404]);
      }
      for (const path of [
        '/orders/..%2f..%2fetc',
        '/products/%2e%2e%2fhealth',
        '/cache/../health',
        '/stock/%2e%2e%2fx',
      ]) {
        const answer = await exchange(world.api.baseUrl, { line: `GET ${path} HTTP/1.1` });
        // A gateway may refuse a path that the service would not find.
        const { code } = answer.body as Problem;
        expect(['not-found', 'order-not-found', 'product-not-found', 'invalid-request']).toContain(code);
        refused(answer, code === 'invalid-request' ? `400 ${code}` : `404 ${code}`);
      }
    });

    it('malformed HTTP is refused', async () => {
      for (const request of [
        { line: 'NONSENSE' },
        { line: 'GET /orders HTTP/1.1', headers: ['Bad Header: x'] },
        { line: 'GET /orders HTTP/1.1', headers: ['X: a\u0000b'] },
        {
          line: 'POST /orders HTTP/1.1',
          headers: ['Content-Type: application/json', 'Content-Length: 5', 'Transfer-Encoding: chunked'],
          body: '0\r\n\r\n',
        },
        { line: 'POST /orders HTTP/1.1', headers: ['Content-Length: 1', 'Content-Length: 2'], body: 'xx' },
        { line: 'POST /orders HTTP/1.1', headers: ['Content-Length: -1'] },
        {
          line: 'POST /orders HTTP/1.1',
          headers: ['Content-Type: application/json', 'Transfer-Encoding: chunked'],
          body: 'zz\r\n{}\r\n0\r\n\r\n',
        },
      ])
        refused(await exchange(world.api.baseUrl, request), '400 invalid-request');
      const whole = encoded(order());
      const head = `POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${whole.length}\r\n\r\n`;
      await abandon(world.api.baseUrl, head);
      await abandon(world.api.baseUrl, head + whole.slice(0, -1));
      await abandon(world.api.baseUrl, 'POST /orders HT');
    });

    it('a body with a byte order mark is parsed', async () => {
      const raw = Buffer.concat([
        Buffer.from([0xef, 0xbb, 0xbf]),
        Buffer.from(encoded({ ...order(), customer_id: '' })),
      ]);
      refused(await world.api.send('POST', '/orders', { raw }), '400 invalid-request', ['customer_id']);
    });

    it('none of the requests above changed stored data, and the system is ready', async () => {
      expect(await world.ledger.footprint()).toEqual(before);
      ok(await world.api.get('/health/ready'));
    });
  });
};
