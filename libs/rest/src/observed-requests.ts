import type { Attributes, Histogram, Span } from '@opentelemetry/api';
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  answerSeconds,
  failed,
  traceparentFrom,
  traceparentOf,
  type Metrics,
  type RequestLog,
  type Traces,
  type Work,
} from '#telemetry';
import { eventStream, type EndpointConfig } from './endpoint.js';

/** Measures, traces and logs what is asked over REST, by the templates of the routes: what callers write stays out of it. */
export class ObservedRequests {
  private duration: Histogram | undefined;
  private traces: Traces | undefined;

  constructor(private readonly log: RequestLog) {}

  /** From now on; the app that brings them is made after its adapter. */
  reportTo(metrics: Metrics | undefined, traces: Traces | undefined): void {
    this.traces = traces;
    this.duration = metrics?.meter('rest').createHistogram('http.server.request.duration', {
      unit: 's',
      description: 'How long requests take until they are answered; those that follow a stream are not counted.',
      advice: { explicitBucketBoundaries: answerSeconds },
    });
  }

  /** @returns the work that the request is; it ends by itself */
  begin(request: FastifyRequest, reply: FastifyReply): Work {
    const startedAt = performance.now();
    const given = traceparentOf(request.headers.traceparent);
    const span = this.spanOf(request, given);
    const traceparent = span ? traceparentFrom(span) : given;
    const work: Work = { requestId: request.id, traceparent, traces: span && this.traces };
    reply.raw.once('close', () => this.end(request, reply, { startedAt, span, work }));
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
    const attributes = attributesOf(request, reply);
    const errorType = attributes['error.type'];
    if (span) {
      span.setAttributes(attributes);
      if (work.orderId !== undefined) span.setAttribute('cleave.order_id', work.orderId);
      if (errorType !== undefined) failed(span, String(errorType));
      span.end();
    }
    if (String(reply.getHeader('content-type')).startsWith(eventStream)) return;
    this.duration?.record(seconds, attributes);
    this.log.tell(seconds * 1_000, work, () => {
      const { method, routeOptions } = request;
      const route = routeOptions.url ?? 'unknown';
      const { statusCode: status } = reply;
      return { line: `${method} ${route} ${status}`, fields: { method, route, status } };
    });
  }
}

/** By the semantic conventions of OpenTelemetry. */
const attributesOf = (request: FastifyRequest, reply: FastifyReply): Attributes => {
  const { url } = request.routeOptions;
  const { statusCode } = reply;
  const errorType = reply.raw.writableFinished ? (statusCode >= 500 ? String(statusCode) : undefined) : 'closed';
  return {
    'http.request.method': request.method,
    ...(url !== undefined && { 'http.route': url }),
    'http.response.status_code': statusCode,
    ...(errorType !== undefined && { 'error.type': errorType }),
  };
};
