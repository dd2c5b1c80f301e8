import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DiagLogLevel, SpanStatusCode, diag } from '@opentelemetry/api';
import { Traces, currentTrace } from '#telemetry';
import { Collector } from '#testing';

const hex = (number: number, digits: number): string => number.toString(16).padStart(digits, '0');
const traceIdOf = (number: number): string => hex(number + 1, 32);
const requestOf = (number: number, flags = '01'): string => `00-${traceIdOf(number)}-${hex(number + 1, 16)}-${flags}`;

/** More than a span may have links to. */
const many = 300;

describe('the traces of a batch', () => {
  let collector: Collector;
  let traces: Traces;
  let warnings: string[];

  beforeEach(async () => {
    collector = await Collector.start();
    traces = new Traces();
    warnings = [];
    const say = (line: string): void => void warnings.push(line);
    diag.setLogger({ error: say, warn: say, info: say, debug: say, verbose: say }, DiagLogLevel.WARN);
  });

  afterEach(async () => {
    diag.disable();
    await traces.close();
    await collector.stop();
  });

  const open = (settings: Parameters<Traces['open']>[1] = {}): void =>
    traces.open('test', { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, ...settings });
  const parents = Array.from({ length: many }, (_, at) => requestOf(at));

  it('each contain a span with its status as a child of the request, linked to the lead span', async () => {
    open();
    let inside: string | undefined;
    const work = traces.ofMany('place orders', parents, { attributes: { size: many } }, async () => {
      inside = currentTrace();
      return Promise.reject(new Error('the batch fails'));
    });
    await expect(work).rejects.toThrow('the batch fails');
    await traces.close();

    expect(collector.spans).toHaveLength(many);
    const lead = collector.of(traceIdOf(0))[0]!;
    expect(inside).toBe(`00-${lead.traceId}-${lead.spanId}-01`);
    expect(new Set(collector.spans.map((it) => it.spanId)).size).toBe(many);
    for (let at = 0; at < many; at += 1) {
      const [span, ...more] = collector.of(traceIdOf(at));
      expect(more).toEqual([]);
      const { name, startTimeUnixNano, endTimeUnixNano, status, service } = lead;
      expect(span).toMatchObject({ name, startTimeUnixNano, endTimeUnixNano, status, service });
      expect(span!.parentSpanId).toBe(hex(at + 1, 16));
      if (at > 0) expect(span!.links).toMatchObject([{ traceId: lead.traceId, spanId: lead.spanId }]);
    }
    expect(lead.status.code).toBe(SpanStatusCode.ERROR);
    expect(lead.links[0]).toMatchObject({ traceId: traceIdOf(1), spanId: hex(2, 16) });
    expect(warnings).toEqual([]);
  });

  it('contain one span per sampled trace, and none for unsampled or missing ones', async () => {
    open();
    const mixed = [requestOf(0, '00'), undefined, requestOf(1), requestOf(2, '00'), requestOf(3), requestOf(3)];
    await traces.ofMany('place orders', mixed, {}, async () => undefined);
    await traces.close();
    expect(collector.spans.map((it) => it.traceId).sort()).toEqual([traceIdOf(1), traceIdOf(3)]);
  });

  it('are limited by the configured sampler even if the caller sampled them', async () => {
    open({ OTEL_TRACES_SAMPLER: 'traceidratio', OTEL_TRACES_SAMPLER_ARG: 0.5 });
    const seldom = `00-${'f'.repeat(8).padEnd(32, '0')}-${hex(1, 16)}-01`;
    await traces.ofMany('place orders', [requestOf(0), seldom], {}, async () => undefined);
    await traces.close();
    expect(collector.spans.map((it) => it.traceId)).toEqual([traceIdOf(0)]);
  });
});
