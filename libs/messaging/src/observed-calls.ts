import type { Span } from '@opentelemetry/api';
import {
  currentTrace,
  currentWork,
  errorTypeOf,
  failed,
  traceparentFrom,
  withWork,
  type Durations,
  type Metrics,
  type Traces,
} from '#telemetry';
import type { MessageMetadata, NamedOperation } from './wire.js';

/** Bucket bounds in seconds, finest at the latencies of calls within one data centre. */
const bounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

const system = 'cleave';

type Side = 'client' | 'server';

/** Measures and traces the calls that one app makes and answers, in-process and over the network. */
export class ObservedCalls {
  private readonly durations: Readonly<Record<Side, Durations>> | undefined;

  constructor(
    metrics?: Metrics,
    private readonly traces?: Traces,
  ) {
    const durations = (side: Side, description: string) =>
      metrics?.durationsOf('messaging', {
        ...{ name: `rpc.${side}.call.duration`, description, bounds },
        attributes: ['rpc.system.name', 'rpc.method', 'error.type'],
      });
    const client = durations(
      'client',
      'Duration of calls to modules, in this process or another; failed ones have an error_type.',
    );
    // The same description as for gRPC calls, because both are exported as one metric.
    const server = durations(
      'server',
      'Duration of answered calls; refused ones have an error_type. Streams count only if they are refused.',
    );
    this.durations = client && server && { client, server };
  }

  /** @param doIt makes the call, with the trace context it is given */
  made<T>(
    operation: NamedOperation,
    metadata: Partial<MessageMetadata> | undefined,
    doIt: (traceparent: string | undefined) => Promise<T>,
  ): Promise<T> {
    return this.observed('client', operation, metadata?.traceparent ?? currentTrace(), doIt);
  }

  /** Continues the trace and the request id that the message names. */
  answered<T>(operation: NamedOperation, metadata: MessageMetadata, doIt: () => Promise<T>): Promise<T> {
    const { tenant, requestId } = metadata;
    return this.observed('server', operation, metadata.traceparent, (traceparent) => {
      const traces = this.traces?.areOpen ? this.traces : undefined;
      return withWork({ traceparent, requestId, tenant, traces, orderId: currentWork()?.orderId }, doIt);
    });
  }

  private async observed<T>(
    side: Side,
    { pattern }: NamedOperation,
    parent: string | undefined,
    doIt: (traceparent: string | undefined) => Promise<T>,
  ): Promise<T> {
    if (!this.durations && !this.traces) return doIt(parent);
    // Background work such as polling has no parent, and starts no trace.
    const span = parent === undefined ? undefined : this.spanOf(side, pattern, parent);
    const startedAt = performance.now();
    const record = (errorType?: string): void =>
      this.durations?.[side].record((performance.now() - startedAt) / 1_000, system, pattern, errorType);
    try {
      const result = await doIt(span ? traceparentFrom(span) : parent);
      record();
      return result;
    } catch (error) {
      const errorType = errorTypeOf(error);
      record(errorType);
      if (span) failed(span, errorType);
      throw error;
    } finally {
      span?.end();
    }
  }

  private spanOf(side: Side, pattern: string, parent: string): Span | undefined {
    const attributes = { 'rpc.system.name': system, 'rpc.method': pattern };
    return this.traces?.begin(pattern, parent, { kind: side, attributes });
  }
}
