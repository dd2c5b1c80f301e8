import type { Span } from '@opentelemetry/api';
import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  answerSeconds,
  failed,
  traceparentFrom,
  traceparentOf,
  type Durations,
  type Metrics,
  type RequestLog,
  type Traces,
  type Work,
} from '#telemetry';
import { eventStream } from './endpoint.js';

/** Named by OpenTelemetry's semantic conventions. */
const attributeNames = ['http.request.method', 'http.route', 'http.response.status_code', 'error.type'] as const;
type Values = readonly [method: string, route: string | undefined, status: number, errorType: string | undefined];

/** Measures, traces and logs REST requests by route template, so that nothing callers write is recorded. */
export class ObservedRequests {
  private durations: Durations | undefined;
  private traces: Traces | undefined;

  constructor(private readonly log: RequestLog) {}

  /** Sets the outputs; the app that provides them is created after its adapter. */
  reportTo(metrics: Metrics | undefined, traces: Traces | undefined): void {
    this.traces = traces;
    this.durations = metrics?.durationsOf('rest', {
      name: 'http.server.request.duration',
      description: 'Duration of requests; streams are not counted.',
      bounds: answerSeconds,
      attributes: attributeNames,
    });
  }

  /** @returns the work item of the request; it ends when the response is closed */
  begin(request: FastifyRequest, reply: FastifyReply): Work {
    const startedAt = performance.now();
    const given = traceparentOf(request.headers.traceparent);
    const span = this.spanOf(request, given);
    const traceparent = span ? traceparentFrom(span) : given;
    const work: Work = { requestId: request.id, traceparent, traces: span && this.traces };
    // `close` is emitted exactly once.
    reply.raw.on('close', () => this.end(request, reply, { startedAt, span, work }));
    return work;
  }

  /** Monitoring requests are not traced: they come every few seconds and carry no information. */
  private spanOf(request: FastifyRequest, parent: string | undefined): Span | undefined {
    if (!this.traces?.areOpen) return undefined;
    const { url, config } = request.routeOptions;
    if (config?.isAlwaysAdmitted) return undefined;
    return this.traces.begin(`${request.method} ${url ?? 'unknown'}`, parent, { kind: 'server' });
  }

  private end(
    request: FastifyRequest,
    reply: FastifyReply,
    { startedAt, span, work }: { startedAt: number; span: Span | undefined; work: Work },
  ): void {
    const seconds = (performance.now() - startedAt) / 1_000;
    const { method } = request;
    const { url: route } = request.routeOptions;
    const { statusCode: status } = reply;
    const errorType = reply.raw.writableFinished ? (status >= 500 ? String(status) : undefined) : 'closed';
    const values: Values = [method, route, status, errorType];
    if (span) {
      for (const [at, name] of attributeNames.entries())
        if (values[at] !== undefined) span.setAttribute(name, values[at]);
      if (work.orderId !== undefined) span.setAttribute('cleave.order_id', work.orderId);
      if (errorType !== undefined) failed(span, errorType);
      span.end();
    }
    if (String(reply.getHeader('content-type')).startsWith(eventStream)) return;
    this.tell(seconds, values, work);
  }

  /** Counts and logs a request that was refused before it began, so it has no span. */
  refused({ method = '', headers }: IncomingMessage, route: string, status: number, requestId: string): void {
    const traceparent = traceparentOf(headers.traceparent);
    this.tell(0, [method, route, status, String(status)], { requestId, traceparent });
  }

  private tell(seconds: number, values: Values, work: Work): void {
    this.durations?.record(seconds, ...values);
    this.log.tell(seconds * 1_000, work, () => {
      const [method, route = 'unknown', status] = values;
      return { line: `${method} ${route} ${status}`, fields: { method, route, status } };
    });
  }
}
