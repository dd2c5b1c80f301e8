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
import { eventStream, type EndpointConfig } from './endpoint.js';

/** By the semantic conventions of OpenTelemetry. */
const attributeNames = ['http.request.method', 'http.route', 'http.response.status_code', 'error.type'] as const;
type Values = readonly [method: string, route: string | undefined, status: number, errorType: string | undefined];

/** Measures, traces and logs what is asked over REST, by the templates of the routes: what callers write stays out of it. */
export class ObservedRequests {
  private durations: Durations | undefined;
  private traces: Traces | undefined;

  constructor(private readonly log: RequestLog) {}

  /** From now on; the app that brings them is made after its adapter. */
  reportTo(metrics: Metrics | undefined, traces: Traces | undefined): void {
    this.traces = traces;
    this.durations = metrics?.durationsOf('rest', {
      name: 'http.server.request.duration',
      description: 'Duration of requests; streams are not counted.',
      bounds: answerSeconds,
      attributes: attributeNames,
    });
  }

  /** @returns the work that the request is; it ends by itself */
  begin(request: FastifyRequest, reply: FastifyReply): Work {
    const startedAt = performance.now();
    const given = traceparentOf(request.headers.traceparent);
    const span = this.spanOf(request, given);
    const traceparent = span ? traceparentFrom(span) : given;
    const work: Work = { requestId: request.id, traceparent, traces: span && this.traces };
    // It comes once.
    reply.raw.on('close', () => this.end(request, reply, { startedAt, span, work }));
    return work;
  }

  /** Those who look how the process does are left out: they come every few seconds and say nothing. */
  private spanOf(request: FastifyRequest, parent: string | undefined): Span | undefined {
    if (!this.traces?.areOpen) return undefined;
    const { url, config } = request.routeOptions;
    if ((config as Partial<EndpointConfig> | undefined)?.isAlwaysAdmitted) return undefined;
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

  /** Counts and logs a request that was refused at once, before it began; it has no span. */
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
