import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { customerExport, orderInFull } from '#contracts';
import type { z } from 'zod';
import { Collector, eventually } from '#testing';
import { Api, ok, refused, type Order, type Problem } from '../support/api.js';
import { fresh, randomOf } from '../support/fresh.js';
import { GrpcApi } from '../support/grpc.js';
import { overhear, type Overheard } from '../support/overheard.js';
import { servicePorts, startShape, type Brokers, type Shape, type ShapeName } from '../support/shapes.js';
import { query } from '../support/tables.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';

type InFull = z.input<typeof orderInFull>;
type Exported = z.input<typeof customerExport>;

const refusal = 'refused_on_purpose';

const splitShapes: [ShapeName, (keyof Brokers)[]][] = [
  ['split-tcp', []],
  ['split-redis', ['redis', 'nats']],
  ['split-nats', ['nats']],
];

/** One process, and separate services in one way, chosen by the seed; with `npm run test:security` in every way. */
const tried: [ShapeName, (keyof Brokers)[]][] = [
  ['monolith', []],
  ...('fullRun' in globalThis ? splitShapes : [randomOf('personal data').pick(splitShapes)]),
];

describe.each(tried)('personal data in %s', (name, brokers) => {
  const marker = fresh('Quagga');
  const contact = { name: `${marker} name`, email: `${marker}@example.com`, phone: `${marker} phone` };
  const shipping_address = {
    ...{ name: `${marker} to`, company: `${marker} Ltd`, line1: `1 ${marker} Street`, line2: `${marker} floor` },
    ...{ city: `${marker}ville`, region: `${marker}shire`, postal_code: `${marker} 1`, country: 'GB' },
  };
  const personal = { contact, shipping_address };
  /** The marker in plain text, hex and base64 at every offset. */
  const spellings = [
    ...[marker, marker.toLowerCase(), Buffer.from(marker).toString('hex')],
    ...[0, 1, 2].map((shift) =>
      Buffer.from('x'.repeat(shift) + marker)
        .toString('base64')
        .slice(4, -4),
    ),
  ];
  const customer_id = fresh('c');
  let collector: Collector;
  let shape: Shape;
  let api: Api;
  let grpc: GrpcApi;
  let receiver: WebhookReceiver;
  let product_id: string;
  let order: Order;
  let events: { abort: AbortController; text: string };
  let overheard: Overheard[];

  const inFull = async (orderId: string): Promise<InFull> => ok(await api.get<InFull>(`/orders/${orderId}`));

  beforeAll(async () => {
    collector = await Collector.start();
    const [port] = await servicePorts(1);
    shape = await startShape(name, {
      ...{ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, LOG_REQUESTS: 'true', LOG_LEVEL: 'debug' },
      ORDER_GRPC_LISTEN: `127.0.0.1:${port}`,
    });
    overheard = await overhear(shape.brokers);
    api = new Api(shape.baseUrl);
    grpc = new GrpcApi(`127.0.0.1:${port}`);
    receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
    product_id = await api.product({ onHand: 1_000, price: 250 });
    events = await followed(`${shape.baseUrl}/events`);
    const body = {
      customer_id,
      product_id,
      quantity: 2,
      payment: { method: 'simulated', token: 'tok_ok' },
      ...personal,
    };
    order = await api.placed(body, 'the-key');
    await eventually(async () => expect((await api.order(order.order_id)).status).toBe('confirmed'));
    ok(await api.fulfil(order.order_id));
    ok(
      await api.return(order.order_id, { lines: [{ product_id, quantity: 1 }], restock: true, reason: 'broken' }),
      201,
    );
    ok(await api.refund(order.order_id, { amount_minor: 1, reason: 'late' }), 201);
  });

  afterAll(async () => {
    events?.abort.abort();
    grpc?.close();
    await receiver?.stop();
    await Promise.all((overheard ?? []).map((it) => it.stop()));
    await shape?.stop();
    await collector?.stop();
  });

  /** Follows the public event stream. */
  const followed = async (url: string): Promise<typeof events> => {
    const abort = new AbortController();
    const { body } = await fetch(url, { headers: { accept: 'text/event-stream' }, signal: abort.signal });
    const heard = { abort, text: '' };
    const decoder = new TextDecoder();
    const write = (chunk: Uint8Array): void => void (heard.text += decoder.decode(chunk, { stream: true }));
    void body!.pipeTo(new WritableStream({ write })).catch(() => undefined);
    return heard;
  };

  it('is returned with the order and in the export', async () => {
    expect(await inFull(order.order_id)).toMatchObject({ personal: 'kept', ...personal });
    const { data } = ok(await api.get<Exported>(`/customers/${customer_id}/export`));
    expect(data).toMatchObject([
      { order_id: order.order_id, ...personal, payment: { captured_minor: 500, customer_action: null } },
    ]);
    expect(data[0]!.history.map((it) => it.type)).toContain('refunded');
  });

  it('is not repeated by refusals', async () => {
    const line = { customer_id, product_id, quantity: 1 };
    const wrong: unknown[] = [
      { contact: marker },
      { contact: {} },
      { contact: { email: marker } },
      { contact: { email: `${marker}@${'x'.repeat(300)}` } },
      { contact: { name: marker.repeat(200) } },
      { contact: { name: `${marker}\0` } },
      { contact: { name: [marker] } },
      { contact: [contact] },
      { contact: { ...contact, fax: marker } },
      { shipping_address: { line1: marker } },
      { shipping_address: { ...shipping_address, country: marker } },
      { shipping_address: { ...shipping_address, country: 44 } },
      { shipping_address: marker },
      { ...personal, quantity: marker },
      { ...personal, metadata: marker },
    ];
    for (const it of wrong) {
      const answer = await api.place({ ...line, ...(it as object) });
      refused(answer, '400 invalid-request');
      expect(answer.text).not.toContain(marker);
    }
    const whole = JSON.stringify({ ...line, ...personal });
    for (const raw of [
      whole.replace('"contact":{', '"contact":'),
      whole.slice(0, -2),
      whole.replaceAll(':', ' '),
      marker,
    ]) {
      const answer = await api.send<Problem>('POST', '/orders', { raw });
      refused(answer, '400 invalid-request');
      expect(answer.text).not.toContain(marker);
    }
    for (const more of [{ product_id: 'nothing' }, { quantity: 1_000_000 }, { expected_total_minor: 1 }]) {
      const answer = await api.place({ ...line, ...personal, ...more }, fresh('key'));
      expect(answer.status).toBeGreaterThanOrEqual(409);
      expect(answer.text).not.toContain(marker);
    }
    const reused = await api.place(
      { ...line, quantity: 2, ...personal, contact: { name: `${marker} other` } },
      'the-key',
    );
    refused(reused, '422 idempotency-key-reused');
    expect(reused.text).not.toContain(marker);
    const lines = [{ product_id, quantity: 1 }];
    const message = {
      customer_id,
      lines,
      contact: { email: marker },
      shipping_address: { line1: marker, country: marker },
    };
    expect(JSON.stringify(await grpc.refused('PlaceOrder', message))).not.toContain(marker);
  });

  it('is neither logged nor returned when the database fails', async () => {
    const url = (await shape.databaseUrls()).order;
    const failing = async (): Promise<void> => {
      const body = { customer_id: fresh('c'), product_id, quantity: 1, ...personal };
      const answer = await api.place(body, fresh('key'));
      expect(answer.status).toBeGreaterThanOrEqual(500);
      expect(answer.text).not.toContain(marker);
      const { customer_id, contact, shipping_address } = body;
      const message = { customer_id, lines: [{ product_id, quantity: 1 }], contact, shipping_address };
      expect(JSON.stringify(await grpc.refused('PlaceOrder', message))).not.toContain(marker);
    };
    // Postgres puts the failing row into the details of such an error.
    for (const table of ['orders.orders', 'orders.customer_keys']) {
      await query(url, `ALTER TABLE ${table} ADD CONSTRAINT ${refusal} CHECK (false) NOT VALID`);
      await failing();
      await query(url, `ALTER TABLE ${table} DROP CONSTRAINT ${refusal}`);
    }
    // The database refuses connections, and open ones are terminated.
    const { pathname, href } = new URL(url);
    const database = pathname.slice(1);
    const elsewhere = new URL('/postgres', href).href;
    await query(elsewhere, `ALTER DATABASE ${database} ALLOW_CONNECTIONS false`);
    await query(elsewhere, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, [database]);
    // The first requests may meet terminated connections, so repeat until one has tried to connect.
    await eventually(async () => {
      await failing();
      expect(shape.log()).toContain('is not currently accepting connections');
    });
    await query(elsewhere, `ALTER DATABASE ${database} ALLOW_CONNECTIONS true`);
    await eventually(async () => {
      const other = { customer_id: fresh('c'), product_id, quantity: 1 };
      expect((await api.place(other)).status).toBe(201);
      expect(shape.log()).toContain(refusal);
    });
    expect(shape.log()).not.toContain(marker);
  });

  it('is stored in no table, in any encoding', async () => {
    const urls = new Set(Object.values(await shape.databaseUrls()));
    const rows: string[] = [];
    for (const url of urls) {
      const tables = await query<{ name: string }>(
        url,
        `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`,
      );
      for (const { name } of tables)
        rows.push(...(await query<{ row: string }>(url, `SELECT t::text AS row FROM ${name} t`)).map((it) => it.row));
    }
    const dump = rows.join('\n');
    expect(dump).toContain(order.order_id);
    expect(dump).toContain(customer_id);
    for (const text of spellings) expect(dump).not.toContain(text);

    // Nor are webhook secrets.
    const { data } = ok(await api.get<{ data: { endpoint_id: string }[] }>('/webhook-endpoints'));
    expect(data.length).toBeGreaterThan(0);
    for (const { endpoint_id } of data) {
      const { secret } = ok(await api.get<{ secret: string }>(`/webhook-endpoints/${endpoint_id}/secret`));
      expect(dump).toContain(endpoint_id);
      expect(dump).not.toContain(secret.slice('whsec_'.length));
    }
  });

  for (const broker of brokers)
    it(`does not pass through ${broker} and is not stored there, in any encoding`, async () => {
      const { told, kept } = overheard.find((it) => it.broker === broker)!;
      // The cache is checked for stored values, as requests do not stay in Redis for long.
      ok(await api.send('PUT', '/cache', { body: { key: product_id, value: order.order_id } }));
      for (const [what, text] of [
        ['told', told()],
        ['kept', await kept()],
      ] as const) {
        for (const it of [product_id, order.order_id]) expect([what, text.includes(it)]).toEqual([what, true]);
        for (const it of spellings) expect([what, text.includes(it)]).toEqual([what, false]);
      }
    });

  it('is in no list, event, webhook, log, trace or metric', async () => {
    await eventually(async () => {
      expect(receiver.received).toContain('order.refunded');
      expect(events.text).toContain('order.refunded');
      expect(shape.log()).toContain(order.order_id);
      const spans = collector.spans.map((it) => it.name);
      for (const it of ['order-record-personal', 'order-customer-keys']) expect(spans).toContain(it);
    });
    const outputs: Record<string, string> = {
      ...{ webhooks: receiver.received, stream: events.text, log: shape.log(), traces: collector.received },
    };
    for (const path of [
      ...[
        `/orders?customer_id=${customer_id}`,
        `/orders/${order.order_id}/history`,
        `/orders/${order.order_id}/payment`,
      ],
      ...['/events?limit=200', '/audit?limit=200', '/dead-letters', '/sales', '/openapi.json', '/health/ready'],
    ])
      outputs[path] = (await api.get(path)).text;
    for (const { name: service, url } of shape.services)
      for (const path of ['/metrics', '/health/ready'])
        outputs[service + path] = await (await fetch(url + path)).text();
    for (const [where, text] of Object.entries(outputs)) {
      expect([where, text.length > 0]).toEqual([where, true]);
      expect([where, text.includes(marker)]).toEqual([where, false]);
    }
  });

  it('is erased with the customer, while the order, its total and the audit entries stay', async () => {
    const other = await api.placed({ customer_id: fresh('c'), product_id, quantity: 1, ...personal });
    const before = ok(await api.get<Order>(`/orders/${order.order_id}`));
    const path = `/customers/${customer_id}`;
    expect(ok(await api.send('DELETE', path))).toEqual({ customer_id, erased: true });
    expect(ok(await api.send('DELETE', path))).toEqual({ customer_id, erased: false });
    const { contact: _contact, shipping_address: _address, ...rest } = before as InFull;
    expect(await inFull(order.order_id)).toEqual({ ...rest, personal: 'erased' });
    const exported = await api.get<Exported>(`${path}/export`);
    expect(ok(exported).data).toMatchObject([{ personal: 'erased', total_minor: 500 }]);
    expect(exported.text).not.toContain(marker);
    expect((await inFull(other.order_id)).contact).toEqual(contact);

    const body = {
      customer_id,
      product_id,
      quantity: 2,
      payment: { method: 'simulated', token: 'tok_ok' },
      ...personal,
    };
    const again = await api.place(body, 'the-key');
    expect([again.status, again.headers.get('idempotent-replayed')]).toEqual([201, 'true']);
    expect(again.body.order_id).toBe(order.order_id);
    const after = await api.placed({ customer_id, product_id, quantity: 1, ...personal });
    expect((await inFull(after.order_id)).contact).toEqual(contact);
    expect((await inFull(order.order_id)).personal).toBe('erased');

    const { data } = ok(
      await api.get<{ data: { operation: string; target: string; status: number }[] }>('/audit?limit=200'),
    );
    const erasures = data.filter((it) => it.operation === 'eraseCustomer');
    expect(erasures.map((it) => [it.target, it.status])).toEqual([
      ...[
        [path, null],
        [path, 200],
      ],
      ...[
        [path, null],
        [path, 200],
      ],
    ]);
  });

  it('can be decrypted after a restart of the process that encrypted it', async () => {
    const { order_id } = await api.placed({ customer_id: fresh('c'), product_id, quantity: 1, ...personal });
    const service = shape.service(name === 'monolith' ? 'monolith' : 'order');
    await service.kill('SIGKILL');
    await service.restart();
    await eventually(async () => expect((await inFull(order_id)).contact).toEqual(contact));
  });

  it('is either kept or erased for each order when orders race with erasures', async () => {
    const whom = fresh('c');
    const placed: string[] = [];
    let running = true;
    const placing = Array.from({ length: 4 }, async () => {
      while (running)
        placed.push((await api.placed({ customer_id: whom, product_id, quantity: 1, ...personal })).order_id);
    });
    for (let times = 0; times < 20; times += 1) {
      const answer = await api.send('DELETE', `/customers/${whom}`);
      expect([200, 404]).toContain(answer.status);
      const [last] = placed.slice(-1);
      if (last) expect(['kept', 'erased']).toContain((await inFull(last)).personal);
    }
    running = false;
    await Promise.all(placing);
    const last = await api.placed({ customer_id: whom, product_id, quantity: 1, ...personal });
    expect((await inFull(last.order_id)).contact).toEqual(contact);
    ok(await api.send('DELETE', `/customers/${whom}`));
    for (const orderId of [...placed, last.order_id]) expect((await inFull(orderId)).personal).toBe('erased');
  });
});
