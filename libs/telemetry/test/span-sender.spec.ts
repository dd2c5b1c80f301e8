import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DiagLogLevel, SpanKind, SpanStatusCode, diag } from '@opentelemetry/api';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { Traces } from '#telemetry';
import { Collector, freePort } from '#testing';
import { SpanBatch } from '../src/span-batch.js';
import { SpanSender } from '../src/span-sender.js';

const parent = `00-${'1'.padStart(32, '0')}-${'1'.padStart(16, '0')}-01`;
const mostBatches = 8;
/** More spans than all batches can hold. */
const tooMany = 40_000;

const received = async (collector: Collector, count: number): Promise<void> => {
  for (let waited = 0; collector.spans.length < count; waited += 20) {
    expect(waited).toBeLessThan(30_000);
    await sleep(20);
  }
};

describe('the sender of spans', () => {
  let traces: Traces;
  let warnings: string[];

  beforeEach(() => {
    traces = new Traces();
    warnings = [];
    const say = (line: string): void => void warnings.push(line);
    diag.setLogger({ error: say, warn: say, info: say, debug: say, verbose: say }, DiagLogLevel.WARN);
  });

  afterEach(async () => {
    await traces.close();
    diag.disable();
  });

  const open = (url: string): void => traces.open('test', { OTEL_EXPORTER_OTLP_ENDPOINT: url });
  const make = (count: number): void => {
    for (let made = 0; made < count; made += 1) traces.begin('work', parent, { attributes: { made } })!.end();
  };

  it('sends spans periodically, and the rest when it is closed', async () => {
    const collector = await Collector.start();
    try {
      open(collector.url);
      make(3);
      await received(collector, 3);
      make(5_000);
      await traces.close();
      expect(collector.spans).toHaveLength(5_003);
      expect(warnings).toEqual([]);
    } finally {
      await collector.stop();
    }
  });

  it('sends the last span that did not fit into the previous batch', async () => {
    const collector = await Collector.start();
    const resource = resourceFromAttributes({ 'service.name': 'test' });
    const none = { attributes: {}, events: [], links: [] };
    const dropped = { droppedAttributesCount: 0, droppedEventsCount: 0, droppedLinksCount: 0 };
    const at: [number, number] = [1, 1];
    const status = { code: SpanStatusCode.UNSET };
    const span = { name: 'work', kind: SpanKind.SERVER, startTime: at, endTime: at, status, ...none, ...dropped };
    const context = { traceId: '1'.padStart(32, '0'), spanId: '1'.padStart(16, '0'), traceFlags: 1 };
    const full = new SpanBatch(resource.attributes, 'cleave');
    while (full.add(span, context, undefined));
    const sender = new SpanSender({ url: `${collector.url}/v1/traces`, timeoutMs: 3_000, resource, scope: 'cleave' });
    try {
      for (let made = 0; made <= full.count; made += 1) sender.add(span, context, undefined);
      await received(collector, full.count + 1);
    } finally {
      await sender.shutdown();
      await collector.stop();
    }
  });

  it('logs how many spans were lost if there is no collector', async () => {
    open(`http://localhost:${await freePort()}`);
    make(7);
    await traces.close();
    expect(warnings).toEqual([expect.stringMatching(/^7 spans were not sent: .*ECONNREFUSED/)]);
  });

  it('drops spans beyond its batches while the collector does not answer, logs how many, and continues', async () => {
    const waiting: ServerResponse[] = [];
    let answered = 0;
    const server = createServer((request, response) => void request.resume().on('end', () => waiting.push(response)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    try {
      open(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
      make(tooMany);
      for (let waited = 0; answered <= mostBatches; waited += 20) {
        expect(waited).toBeLessThan(30_000);
        make(1);
        await sleep(20);
        answered += waiting.length;
        for (const response of waiting.splice(0)) response.end();
      }
      const lost = warnings.map(
        (it) => /^(\d+) spans were not sent: more spans came than the collector accepts$/.exec(it)?.[1],
      );
      expect(lost).toEqual(warnings.map(() => expect.any(String)));
      const dropped = lost.reduce((sum, it) => sum + Number(it), 0);
      expect(dropped).toBeGreaterThan(tooMany / 4);
      expect(dropped).toBeLessThan(tooMany);
    } finally {
      const closed = traces.close();
      server.closeAllConnections();
      server.close();
      await Promise.all([once(server, 'close'), closed]);
    }
  });
});
