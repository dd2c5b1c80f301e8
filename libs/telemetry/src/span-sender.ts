import type { Agent } from 'node:https';
import { diag, type SpanContext } from '@opentelemetry/api';
import { convertLegacyHttpOptions, createOtlpHttpExportDelegate } from '@opentelemetry/otlp-exporter-base/node-http';
import { ProtobufTraceSerializer, type IExportTraceServiceResponse } from '@opentelemetry/otlp-transformer';
import type { Resource } from '@opentelemetry/resources';
import type { ReadableSpan, SpanProcessor } from '@opentelemetry/sdk-trace';
import { SpanBatch, type ToldSpan } from './span-batch.js';

/** Batches being filled or sent. Spans that do not fit are dropped, so that a slow collector delays nothing. */
const mostBatches = 8;
/** How long a span waits for a batch to fill. */
const sentWithinMs = 1_000;
const toldEveryMs = 5_000;
const tooMany = 'more spans came than the collector accepts';

interface SenderOptions {
  /** The address of the collector, for POST. */
  url: string;
  /** How long sending a batch may take, including retries, in milliseconds. */
  timeoutMs: number;
  resource: Resource;
  scope: string;
}

/** Sends spans by OTLP over HTTP. The variables of OpenTelemetry set headers, compression and certificates. */
export class SpanSender implements SpanProcessor {
  private readonly free: SpanBatch[] = [];
  private made = 0;
  private current: SpanBatch | undefined;
  private readonly onTheirWay = new Set<Promise<void>>();
  private timer: NodeJS.Timeout | undefined;
  private lost = 0;
  private why = '';
  private isOver = false;
  private toldAt = Number.NEGATIVE_INFINITY;
  private readonly exporter;

  constructor(private readonly options: SenderOptions) {
    const { url, timeoutMs } = options;
    // oxlint-disable-next-line typescript/no-deprecated -- reads the variables as all exporters do; there is no other API
    const http = convertLegacyHttpOptions({ url, timeoutMillis: timeoutMs }, 'TRACES', 'v1/traces', {
      'Content-Type': 'application/x-protobuf',
    });
    this.exporter = createOtlpHttpExportDelegate(
      {
        ...http,
        agentFactory: async (protocol) => {
          const agent = await http.agentFactory(protocol);
          // The exporter's own timeout starts only once there is a connection.
          (agent as Agent).options.timeout = timeoutMs;
          return agent;
        },
      },
      { serializeRequest: (batch: SpanBatch) => batch.finish(), deserializeResponse: partialSuccessIn },
      'otlp_http_span_exporter',
      { name: 'span', countItems: (batch) => batch.count },
      undefined,
    );
  }

  onStart(): void {}

  onEnd(span: ReadableSpan): void {
    this.add(span, span.spanContext(), span.parentSpanContext);
  }

  add(span: ToldSpan, context: SpanContext, parent: SpanContext | undefined): void {
    if (this.isOver) return;
    if (!this.current?.add(span, context, parent)) {
      if (this.current && this.current.count > 0) this.send();
      this.current ??= this.empty();
      if (!this.current?.add(span, context, parent)) this.lose(1, tooMany);
    }
    this.soon();
  }

  async forceFlush(): Promise<void> {
    this.send();
    await Promise.all(this.onTheirWay);
  }

  async shutdown(): Promise<void> {
    while (this.onTheirWay.size > 0 || (this.current?.count ?? 0) > 0) await this.forceFlush();
    this.isOver = true;
    clearTimeout(this.timer);
    this.tell();
    await this.exporter.shutdown();
  }

  private soon(): void {
    this.timer ??= setTimeout(() => this.send(), sentWithinMs).unref();
  }

  private empty(): SpanBatch | undefined {
    if (this.free.length > 0 || this.made === mostBatches) return this.free.pop();
    this.made += 1;
    return new SpanBatch(this.options.resource.attributes, this.options.scope);
  }

  private send(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (performance.now() - this.toldAt > toldEveryMs) this.tell();
    if (this.lost > 0) this.soon();
    const batch = this.current;
    if (!batch || batch.count === 0) return;
    this.current = undefined;
    const sent = new Promise<void>((resolve) => {
      this.exporter.export(batch, ({ error }) => {
        if (error) this.lose(batch.count, reasonOf(error));
        resolve();
      });
    }).then(() => {
      batch.clear();
      this.free.push(batch);
      this.onTheirWay.delete(sent);
    });
    this.onTheirWay.add(sent);
  }

  /** A failure to send is the better reason to report: it also explains why there is no room. */
  private lose(count: number, why: string): void {
    this.lost += count;
    if (why !== tooMany || this.why === '') this.why = why;
    this.soon();
  }

  private tell(): void {
    if (this.lost === 0) return;
    diag.warn(`${this.lost} spans were not sent: ${this.why}`);
    this.lost = 0;
    this.why = '';
    this.toldAt = performance.now();
  }
}

/** Even if the body cannot be parsed, the collector has accepted the spans, and there is nothing to warn of. */
const partialSuccessIn = (answer: Uint8Array): IExportTraceServiceResponse => {
  try {
    return ProtobufTraceSerializer.deserializeResponse(answer);
  } catch {
    return {};
  }
};

/** If all addresses of a host refuse, Node gives only a code; for a response, the exporter gives the status as the code. */
const reasonOf = (error: Error & { code?: number | string }): string =>
  [error.message.trim(), error.code].filter((it) => it !== undefined && it !== '').join(' ') || error.name;
