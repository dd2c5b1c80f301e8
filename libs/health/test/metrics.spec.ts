import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from '@jest/globals';
import { Module, type LoggerService } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { MetricsModule } from '#health';
import { createRestApp, openApiDocument } from '#rest';
import { Metrics } from '#telemetry';
import { samplesIn, type Samples } from '#testing';

@Module({ imports: [MetricsModule.register()] })
class Root {}

const log: string[] = [];
const write = (...parts: unknown[]): void => void log.push(parts.map(String).join(' '));
const logger: LoggerService = { log: write, warn: write, error: write };
const apps: NestFastifyApplication[] = [];

@Module({ imports: [MetricsModule.register({ OTEL_SDK_DISABLED: true })] })
class Disabled {}

const start = async (module: typeof Root | typeof Disabled = Root): Promise<NestFastifyApplication> => {
  const app = await createRestApp(module, { logger });
  apps.push(app);
  await app.listen(0, '127.0.0.1');
  return app;
};

afterEach(async () => {
  for (const app of apps.splice(0)) await app.close();
  log.length = 0;
});

const ask = async (app: NestFastifyApplication) => {
  const { port } = app.getHttpServer().address() as { port: number };
  const response = await fetch(`http://127.0.0.1:${port}/metrics`);
  return { response, text: await response.text() };
};
const read = async (app: NestFastifyApplication): Promise<Samples> => samplesIn((await ask(app)).text);

describe('GET /metrics', () => {
  it('answers in the text format of Prometheus, with no-store', async () => {
    const { response, text } = await ask(await start());
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    expect(response.headers.get('cache-control')).toBe('no-store');
    expect(samplesIn(text).size).toBeGreaterThan(10);
  });

  it('contains metrics of the process', async () => {
    const app = await start();
    const before = await read(app);
    const now = await read(app);
    expect(now.get('process_uptime_seconds')).toBeGreaterThan(before.get('process_uptime_seconds')!);
    expect(now.get('process_cpu_time_seconds_total{cpu_mode="user"}')).toBeGreaterThan(0.1);
    expect(now.get('process_memory_usage_bytes')).toBeGreaterThan(20_000_000);
    expect(now.get('v8js_memory_heap_used_bytes{v8js_heap_space_name="old_space"}')).toBeGreaterThan(1_000_000);
    expect(now.get('nodejs_eventloop_time_seconds_total{nodejs_eventloop_state="active"}')).toBeGreaterThan(0);
  });

  it('contains the delay of the event loop since the last read', async () => {
    const app = await start();
    const until = async (figure: string, isSo: (seconds: number) => boolean, block = (): void => {}) => {
      for (let seconds = Number.NaN; !isSo(seconds);) {
        // Long enough for new samples.
        await sleep(200);
        block();
        seconds = (await read(app)).get(`nodejs_eventloop_delay_${figure}_seconds`) ?? Number.NaN;
      }
    };
    const block = (): void => {
      const blockedUntil = performance.now() + 300;
      while (performance.now() < blockedUntil);
    };
    await until('max', (seconds) => seconds > 0.2, block);
    // A high value is reported once, and the 20 ms between two samples do not count as delay.
    await until('max', (seconds) => seconds < 0.2);
    await until('min', (seconds) => seconds < 0.01);
  });

  it('contains the metrics of modules under names with units, for each app its own', async () => {
    const [app, other] = [await start(), await start()];
    const meter = app.get(Metrics).meter('shop');
    meter.createCounter('shop.sales', { unit: '{sale}' }).add(2, { 'shop.where': 'a "b"\\\n' });
    meter.createUpDownCounter('shop.size', { unit: 'By' }).add(7);
    meter
      .createHistogram('shop.wait', {
        unit: 's',
        description: 'Waiting.',
        advice: { explicitBucketBoundaries: [1, 5] },
      })
      .record(3);
    const samples = await read(app);
    const ofShop = [...samples].filter(([name]) => name.startsWith('shop'));
    expect(Object.fromEntries(ofShop)).toEqual({
      [String.raw`shop_sales_total{shop_where="a \"b\"\\\n"}`]: 2,
      shop_size_bytes: 7,
      'shop_wait_seconds_bucket{le="1"}': 0,
      'shop_wait_seconds_bucket{le="5"}': 1,
      'shop_wait_seconds_bucket{le="+Inf"}': 1,
      shop_wait_seconds_count: 1,
      shop_wait_seconds_sum: 3,
    });
    expect([...(await read(other)).keys()].filter((name) => name.startsWith('shop'))).toEqual([]);
  });

  it('stays valid if two modules use the same metric name', async () => {
    const app = await start();
    for (const name of ['one', 'two'])
      app.get(Metrics).meter(name).createCounter('calls', { description: 'Calls.' }).add(1);
    const { text } = await ask(app);
    expect(samplesIn(text).get('calls_total')).toBe(1);
    expect(text.match(/^calls_total\{.*$/gm)).toEqual([
      'calls_total{otel_scope_name="one"} 1',
      'calls_total{otel_scope_name="two"} 1',
    ]);
  });

  it('omits a metric that cannot be read, and logs the reason', async () => {
    const app = await start();
    const broken = app.get(Metrics).meter('shop').createObservableGauge('shop.broken');
    broken.addCallback(() => {
      throw new Error('the shelf is away');
    });
    expect((await read(app)).has('process_uptime_seconds')).toBe(true);
    expect(log.join('\n')).toContain('A metric cannot be read: Error: the shelf is away');
  });

  it('contains only a comment if OpenTelemetry is disabled', async () => {
    const app = await start(Disabled);
    app.get(Metrics).meter('shop').createCounter('shop.sales').add(1);
    const { response, text } = await ask(app);
    expect(response.status).toBe(200);
    expect(text).toBe('# metrics are off: OTEL_SDK_DISABLED\n');
  });

  it('is documented as plain text', async () => {
    const { paths } = openApiDocument(await start(), { title: 'Metrics', description: '' });
    const { get } = paths['/metrics']!;
    expect(get).toMatchObject({ operationId: 'getMetrics', tags: ['health'] });
    expect(get!.responses[200]).toMatchObject({ content: { 'text/plain': { schema: { type: 'string' } } } });
  });
});

it.each([
  ['a 1', 'the last line does not end'],
  ['a 1\n', 'not of the family before it'],
  ['# TYPE a gauge\na one\n', 'no number'],
  ['# TYPE a gauge\na{b="c" d="e"} 1\n', 'no labels'],
  ['# TYPE a gauge\na 1\na 2\n', 'said twice'],
  ['# TYPE a gauge\n# TYPE a gauge\n', 'said twice'],
  ['# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\na{c="d"} 1\n', 'not of the family before it'],
  ['# TYPE a counter\na 1\n', 'a counter by another name'],
  ['# TYPE a gauges\na 1\n', 'no type'],
  ['what is this?\n', 'no line of the format'],
])('samplesIn refuses the invalid text %j', (text, why) => {
  expect(() => samplesIn(text)).toThrow(why);
});
