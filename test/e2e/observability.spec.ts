import { execFile, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';
import { Collector, eventually, orSkip, samplesIn, type CollectedSpan } from '#testing';
import { Api, ok, refused } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { startShape, type Shape } from '../support/shapes.js';
import { metricsIn, observability, rules, watchedExpressions } from '../support/watched-metrics.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';

const itWithPromtool = orSkip(
  spawnSync('promtool', ['--version']).error === undefined,
  it,
  'There is no promtool for the tests of alerts: install it (apt-get install prometheus)',
);

/** In the order in which an order and its payment produce them. */
const expectedSpans = [
  ...['POST /orders', 'place orders', 'inventory.reserve', 'inventory-reserve at-once', 'order-record'],
  ...[
    'process stock',
    'inventory.settle',
    'inventory-settle',
    'process sales-1',
    'sales-add',
    'process webhooks',
    'deliver webhook',
  ],
  ...['lead sagas', 'payment.perform', 'order-sagas-move'],
];

describe.each(['monolith', 'split-tcp'] as const)('telemetry of %s', (name) => {
  const marker = fresh('personal');
  const requestId = fresh('request');
  const traceId = randomBytes(16).toString('hex');
  const parentId = randomBytes(8).toString('hex');
  let collector: Collector;
  let shape: Shape;
  let api: Api;
  let receiver: WebhookReceiver;
  let orderId: string;

  beforeAll(async () => {
    collector = await Collector.start();
    shape = await startShape(name, {
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_TRACES_SAMPLER: 'parentbased_always_off',
      LOG_REQUESTS: 'true',
    });
    api = new Api(shape.baseUrl);
    receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
    const product_id = await api.product({ onHand: 10 });
    const headers = { traceparent: `00-${traceId}-${parentId}-01`, 'x-request-id': requestId };
    const body = {
      ...{ customer_id: marker, product_id, quantity: 1, metadata: { note: marker }, reference: marker },
      payment: { method: 'simulated', token: 'tok_ok' },
    };
    const placed = await api.send<{ order_id: string }>('POST', '/orders', { body, headers });
    orderId = ok(placed, 201).order_id;
    expect(placed.headers.get('x-request-id')).toBe(requestId);
    ok(await api.send('PUT', '/cache', { body: { key: 'k', value: 1 } }), 200);
    ok(await api.get('/cache?key=k'));
    ok(await api.get(`/orders?customer_id=${marker}`));
  });

  afterAll(async () => {
    await receiver?.stop();
    await shape?.stop();
    await collector?.stop();
  });

  it('has one trace from the HTTP request to settlement, sales, webhook delivery and payment', async () => {
    await eventually(async () => {
      const names = new Set(collector.of(traceId).map((it) => it.name));
      expect(expectedSpans.filter((it) => !names.has(it))).toEqual([]);
      // Each process exports on its own: a span may arrive before its parent.
      expect(rootsOf(collector.of(traceId)).map((it) => [it.name, it.parentSpanId])).toEqual([
        ['POST /orders', parentId],
      ]);
    });
    const spans = collector.of(traceId);
    const byId = new Map(spans.map((it) => [it.spanId, it]));
    expect(pathOf('order-record', spans, byId)).toMatch(/POST \/orders > place orders > order-record$/);
    expect(pathOf('inventory-settle', spans, byId)).toMatch(
      /POST \/orders > process stock > inventory\.settle > inventory\.settle > inventory-settle$/,
    );
    const services =
      name === 'monolith' ? ['monolith'] : ['gateway', 'inventory', 'order', 'payment', 'sales', 'webhooks'];
    expect([...new Set(spans.map((it) => it.service))].sort()).toEqual(services.map((it) => `cleave-${it}`));
    // No other trace: the sampler drops spans without a parent.
    expect(new Set(collector.spans.map((it) => it.traceId))).toEqual(new Set([traceId]));
  });

  it('includes a log line with the ids of the request, trace and order, and the tenant', async () => {
    const lines = shape
      .log()
      .split('\n')
      .filter((it) => it.startsWith('{'));
    const logged = lines.map((it) => JSON.parse(it) as Record<string, unknown>);
    const told = logged.find((it) => it['request_id'] === requestId && it['order_id'] !== undefined);
    expect(told).toMatchObject({
      ...{ level: 'info', trace_id: traceId, order_id: orderId, tenant: 'default', route: '/orders', status: 201 },
      service: name === 'monolith' ? 'monolith' : 'order',
    });
  });

  it('contains no caller input in logs, spans or metrics', async () => {
    const refused = await api.send('POST', '/orders', { body: { customer_id: marker, quantity: marker } });
    expect(refused.status).toBe(400);
    expect((await api.get(`/orders/${marker}`)).status).toBe(404);
    expect((await api.get(`/${marker}?email=${marker}`)).status).toBe(404);
    const headers = { authorization: `Bearer ${marker}`, 'x-request-id': `${marker}\n"forged"`.replace('\n', ' ') };
    const answered = await api.send('GET', '/orders', { headers });
    expect(answered.headers.get('x-request-id')).not.toContain(marker);
    expect(shape.log()).not.toContain(marker);
    expect(collector.received).not.toContain(marker);
    expect((await metricsOf(shape)).join('')).not.toContain(marker);
  });

  it('has every metric and label that the dashboards and alert rules query', async () => {
    const series = new Map<string, Set<string>>();
    for (const sample of (await metricsOf(shape)).flatMap((it) => [...samplesIn(it).keys()])) {
      const [, metric = '', labels = ''] = /^([\w:]+)(?:\{(.*)\})?$/s.exec(sample)!;
      const known = series.get(metric) ?? new Set();
      for (const [, label = ''] of labels.matchAll(/(\w+)="/g)) known.add(label);
      series.set(metric, known);
    }
    const expressions = await watchedExpressions();
    expect(expressions.length).toBeGreaterThan(40);
    // Labels that are set only on failures.
    const rare = new Set(['error_type']);
    // Metrics of calls between processes.
    const elsewhere = name === 'monolith' ? ['balancing_targets'] : [];
    const missing = expressions.flatMap(([where, expression]) =>
      metricsIn(expression)
        .filter(({ metric }) => !elsewhere.includes(metric))
        .flatMap(({ metric, labels }) => {
          const known = series.get(metric);
          if (!known) return [`${where}: ${metric}`];
          return labels.filter((it) => !known.has(it) && !rare.has(it)).map((it) => `${where}: ${metric}{${it}}`);
        }),
    );
    expect(missing).toEqual([]);
  });

  it('has a log level that can be changed at runtime', async () => {
    const path = '/admin/log-level';
    expect(ok(await api.get<{ level: string }>(path)).level).toBe('info');
    ok(await api.send('PUT', path, { body: { level: 'error' } }));
    const quiet = fresh('quiet');
    await api.send('GET', '/nowhere', { headers: { 'x-request-id': quiet } });
    ok(await api.send('PUT', path, { body: { level: 'info' } }));
    const loud = fresh('loud');
    await api.send('GET', '/nowhere', { headers: { 'x-request-id': loud } });
    await eventually(async () => expect(shape.log()).toContain(`"request_id":"${loud}"`));
    expect(shape.log()).not.toContain(quiet);
    refused(await api.send('PUT', path, { body: { level: 'loud' } }), '400 invalid-request', ['level']);
    const ofOrder = await api.send<{ told: string[] }>('PUT', path, { body: { level: 'info', service: 'order' } });
    if (name === 'monolith') refused(ofOrder, '400 invalid-request', ['service']);
    else expect(ok(ofOrder).told).toEqual([new URL(shape.service('order').url).host]);
  });
});

const rootsOf = (spans: readonly CollectedSpan[]): CollectedSpan[] => {
  const ids = new Set(spans.map((it) => it.spanId));
  return spans.filter((it) => !ids.has(it.parentSpanId));
};

const pathOf = (name: string, spans: readonly CollectedSpan[], byId: ReadonlyMap<string, CollectedSpan>): string => {
  const path: string[] = [];
  for (let it = spans.find((span) => span.name === name); it; it = byId.get(it.parentSpanId)) path.unshift(it.name);
  return path.join(' > ');
};

/** The metrics of each process. */
const metricsOf = ({ services }: Shape): Promise<string[]> =>
  Promise.all(services.map(async ({ url }) => (await fetch(`${url}/metrics`)).text()));

describe('the alert rules', () => {
  it('each have a section in the documentation', async () => {
    const told = await readFile(`${observability}/../../docs/observability.md`, 'utf8');
    const alerts = (await rules()).flatMap(({ alert }) => alert ?? []);
    expect(alerts.length).toBeGreaterThan(10);
    expect(alerts.filter((it) => !told.includes(`### ${it}\n`))).toEqual([]);
  });

  it('each have a test case in which they fire', async () => {
    const { tests } = parse(await readFile(`${observability}/rules.test.yml`, 'utf8')) as {
      tests: { alert_rule_test: { alertname: string; exp_alerts: unknown[] }[] }[];
    };
    const fired = tests.flatMap((it) => it.alert_rule_test.filter(({ exp_alerts: alerts }) => alerts.length > 0));
    const alerts = (await rules()).flatMap(({ alert }) => alert ?? []);
    expect(new Set(fired.map(({ alertname }) => alertname))).toEqual(new Set(alerts));
  });

  const promtool = async (...args: string[]): Promise<string> => (await promisify(execFile)('promtool', args)).stdout;

  itWithPromtool('are valid for promtool and pass their test cases', async () => {
    expect(await promtool('check', 'rules', `${observability}/rules.yml`)).toContain('SUCCESS');
    expect(await promtool('test', 'rules', `${observability}/rules.test.yml`)).toContain('SUCCESS');
  });

  itWithPromtool('are loaded by the Prometheus configuration', async () => {
    const checked = await promtool('check', 'config', `${observability}/prometheus.yml`);
    expect(checked).toContain('1 rule files found');
    expect(checked).toContain('is valid prometheus config file');
  });
});
