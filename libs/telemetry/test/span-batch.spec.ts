import { describe, expect, it } from '@jest/globals';
import type { Attributes, SpanContext } from '@opentelemetry/api';
import { ProtobufTraceSerializer } from '@opentelemetry/otlp-transformer';
import { resourceFromAttributes } from '@opentelemetry/resources';
import type { ReadableSpan } from '@opentelemetry/sdk-trace';
import fc from 'fast-check';
import { spansOf, testSeed } from '#testing';
import { SpanBatch } from '../src/span-batch.js';

const resource = resourceFromAttributes({ 'service.name': 'cleave-ä', 'host.cpus': 2 });
const scope = { name: 'cleave' };

const hex = (digits: number) =>
  fc.string({ unit: fc.constantFrom(...'0123456789abcdef'.split('')), minLength: digits, maxLength: digits });
const context: fc.Arbitrary<SpanContext> = fc.record(
  { traceId: hex(32), spanId: hex(16), traceFlags: fc.constantFrom(0, 1), isRemote: fc.boolean() },
  { requiredKeys: ['traceId', 'spanId', 'traceFlags'] },
);
const text = fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.string({ minLength: 100, maxLength: 400 }));
const attributes: fc.Arbitrary<Attributes> = fc.dictionary(
  text.filter((it) => it !== '__proto__'),
  fc.oneof(
    text,
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.double({ noNaN: true, noInteger: true }),
    fc.array(text),
    fc.array(fc.integer()),
  ),
  { maxKeys: 6 },
);
const time = fc.tuple(fc.integer({ min: 0, max: 4_000_000_000 }), fc.integer({ min: 0, max: 999_999_999 }));
const count = fc.oneof(fc.constant(0), fc.nat());
const span: fc.Arbitrary<ReadableSpan> = fc
  .record({
    name: text,
    kind: fc.nat({ max: 4 }),
    own: context,
    parentSpanContext: fc.option(context, { nil: undefined }),
    startTime: time,
    endTime: time,
    status: fc.record({ code: fc.nat({ max: 2 }), message: text }, { requiredKeys: ['code'] }),
    attributes,
    events: fc.array(fc.record({ name: text, time, attributes }, { requiredKeys: ['name', 'time'] }), { maxLength: 2 }),
    links: fc.array(fc.record({ context, attributes }, { requiredKeys: ['context'] }), { maxLength: 3 }),
    droppedAttributesCount: count,
    droppedEventsCount: count,
    droppedLinksCount: count,
  })
  .map(({ own, ...rest }) => ({
    ...(rest as unknown as ReadableSpan),
    spanContext: () => own,
    resource,
    instrumentationScope: scope,
  }));

const add = (batch: SpanBatch, it: ReadableSpan): boolean => batch.add(it, it.spanContext(), it.parentSpanContext);

describe('a batch of spans', () => {
  it('serialises any spans like OpenTelemetry, also in reused memory', () => {
    const batch = new SpanBatch(resource.attributes, scope.name);
    fc.assert(
      fc.property(fc.array(span, { minLength: 1, maxLength: 4 }), (spans) => {
        batch.clear();
        for (const it of spans) expect(add(batch, it)).toBe(true);
        expect(batch.count).toBe(spans.length);
        expect(spansOf(batch.finish())).toEqual(spansOf(ProtobufTraceSerializer.serializeRequest(spans)!));
      }),
      { seed: testSeed(), numRuns: 300 },
    );
  });

  it('rejects a span that does not fit, without writing a part of it', () => {
    const one = { ...fc.sample(span, { seed: testSeed(), numRuns: 1 })[0]!, links: [], events: [] };
    const batch = new SpanBatch(resource.attributes, scope.name);
    for (const long of ['x', 'ä']) {
      batch.clear();
      expect(add(batch, { ...one, name: long.repeat(300_000) })).toBe(false);
      let taken = 0;
      while (add(batch, { ...one, attributes: { at: taken, text: long.repeat(1_000) } })) taken += 1;
      expect(taken).toBeGreaterThan(50);
      expect(batch.count).toBe(taken);
      const [{ scopeSpans }] = spansOf(batch.finish()) as [{ scopeSpans: [{ spans: { attributes: unknown[] }[] }] }];
      expect(scopeSpans[0].spans).toHaveLength(taken);
      expect(scopeSpans[0].spans.at(-1)!.attributes[0]).toEqual({ key: 'at', value: { intValue: String(taken - 1) } });
    }
  });
});
