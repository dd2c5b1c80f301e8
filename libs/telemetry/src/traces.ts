import {
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  trace,
  type Span,
  type SpanContext,
  type Tracer,
} from '@opentelemetry/api';
import {
  defaultResource,
  detectResources,
  resourceAttributesEnvDetector,
  resourceFromAttributes,
} from '@opentelemetry/resources';
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  ParentBasedSampler,
  RandomIdGenerator,
  SamplingDecision,
  TraceIdRatioBasedSampler,
  TracerProvider,
  type ReadableSpan,
  type Sampler,
} from '@opentelemetry/sdk-trace';
import type { ToldSpan } from './span-batch.js';
import { SpanSender } from './span-sender.js';
import type { TelemetrySettings } from './environment.js';
import { currentWork, traceparentOf, withWork, type SpanMaker, type SpanOptions } from './work.js';

/** How long a stopping app waits until its last spans are sent, in milliseconds. */
const lastSpansWithinMs = 3_000;
/** The instrumentation scope of all spans. */
const scope = 'cleave';
/** The most links a span may have, by the default in the specification of OpenTelemetry. */
const mostLinks = 128;

const kinds = {
  server: SpanKind.SERVER,
  client: SpanKind.CLIENT,
  consumer: SpanKind.CONSUMER,
  producer: SpanKind.PRODUCER,
};

/** The spans of one app. Each app has its own, as with `Metrics`. There are none until it is opened. */
export class Traces implements SpanMaker {
  private provider: TracerProvider | undefined;
  private sender: SpanSender | undefined;
  private tracer: Tracer | undefined;
  /** Decides whether the children of a sampled span are sampled too. */
  private below: Sampler = new AlwaysOnSampler();
  private readonly ids = new RandomIdGenerator();

  /** Exports by OTLP over HTTP to the endpoint in the standard variables of OpenTelemetry; without one, does nothing. */
  open(service: string, settings: Partial<TelemetrySettings>): void {
    const { OTEL_EXPORTER_OTLP_ENDPOINT: all, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: ours } = settings;
    if ((all === undefined && ours === undefined) || settings.OTEL_SDK_DISABLED) return;
    const named = resourceFromAttributes({ 'service.name': settings.OTEL_SERVICE_NAME ?? `cleave-${service}` });
    const resource = defaultResource()
      .merge(named)
      .merge(detectResources({ detectors: [resourceAttributesEnvDetector] }));
    const { sampler, below } = samplersOf(settings);
    this.below = below;
    this.sender = new SpanSender({
      url: ours ?? `${all!.replace(/\/$/, '')}/v1/traces`,
      timeoutMs: lastSpansWithinMs,
      resource,
      scope,
    });
    this.provider = new TracerProvider({ resource, sampler, spanProcessors: [this.sender] });
    this.tracer = this.provider.getTracer(scope);
  }

  get areOpen(): boolean {
    return this.tracer !== undefined;
  }

  begin(
    name: string,
    parent: string | undefined,
    { kind, attributes, links = [] }: SpanOptions = {},
  ): Span | undefined {
    if (!this.tracer || (parent !== undefined && !isSampled(parent))) return undefined;
    const context = parent === undefined ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, contextOf(parent));
    const span = this.tracer.startSpan(
      name,
      {
        ...(kind && { kind: kinds[kind] }),
        ...(attributes && { attributes }),
        links: links.map((it) => ({ context: contextOf(it) })),
      },
      context,
    );
    return span.isRecording() ? span : undefined;
  }

  /**
   * Runs work that several callers wait for, such as a batch. The trace of each of them has a span for it; the spans
   * within it are in the trace of the first caller, to which the others link.
   */
  async ofMany<T>(
    name: string,
    parents: readonly (string | undefined)[],
    options: SpanOptions,
    doIt: () => Promise<T>,
  ): Promise<T> {
    const seen = this.tracer ? [...new Set(parents.filter((it) => it !== undefined && isSampled(it)))] : [];
    const [first, ...others] = seen as string[];
    const work = { traces: this.tracer && this };
    const links = others.slice(0, mostLinks);
    const lead = first === undefined ? undefined : this.begin(name, first, { ...options, links });
    if (!lead) return withWork({ ...work, traceparent: parents.length === 1 ? parents[0] : undefined }, doIt);
    try {
      return await ending(lead, () => withWork({ ...work, traceparent: traceparentFrom(lead) }, doIt));
    } finally {
      this.showBeside(lead as Span & ReadableSpan, others);
    }
  }

  /** Bypasses the SDK, which takes several times as long: if every request is traced, most spans are of this kind. */
  private showBeside(lead: ReadableSpan, parents: readonly string[]): void {
    const links = [{ context: lead.spanContext() }];
    const beside = besideOf(lead, links);
    for (const parent of parents.map(contextOf)) {
      const { traceId } = parent;
      const { decision } = this.below.shouldSample(ROOT_CONTEXT, traceId, lead.name, lead.kind, lead.attributes, links);
      if (decision !== SamplingDecision.RECORD_AND_SAMPLED) continue;
      const own = { traceId, spanId: this.ids.generateSpanId(), traceFlags: TraceFlags.SAMPLED };
      this.sender?.add(beside, own, parent);
    }
  }

  async close(): Promise<void> {
    const { provider } = this;
    this.tracer = undefined;
    this.provider = undefined;
    await provider?.shutdown();
  }
}

/** Runs a part of the current work, in a span of its own if the work is traced. */
export const withSpan = <T>(name: string, options: SpanOptions, doIt: () => Promise<T>): Promise<T> => {
  const work = currentWork();
  if (!work?.traces || work.traceparent === undefined) return doIt();
  const span = work.traces.begin(name, work.traceparent, options);
  if (!span) return doIt();
  return ending(span, () => withWork({ ...work, traceparent: traceparentFrom(span) }, doIt));
};

const ending = async <T>(span: Span, doIt: () => Promise<T>): Promise<T> => {
  try {
    const result = await doIt();
    span.end();
    return result;
  } catch (error) {
    failed(span, errorTypeOf(error));
    span.end();
    throw error;
  }
};

/** The span of shared work in the trace of another caller. Its attributes and events are recorded only once. */
const besideOf = (
  { name, kind, startTime, endTime, status }: ReadableSpan,
  links: ReadableSpan['links'],
): ToldSpan => ({
  ...{ name, kind, startTime, endTime, status, links },
  attributes: {},
  events: [],
  droppedAttributesCount: 0,
  droppedEventsCount: 0,
  droppedLinksCount: 0,
});

/** Records the kind of an error, not its message, which may contain personal data. */
export const failed = (span: Span, errorType: string): void => {
  span.setAttribute('error.type', errorType);
  span.setStatus({ code: SpanStatusCode.ERROR });
};

/** The stable code of an error of ours, or the class of any other. */
export const errorTypeOf = (error: unknown): string => {
  const { code, constructor } = (error ?? {}) as { code?: unknown; constructor?: { name: string } };
  return typeof code === 'string' ? code : (constructor?.name ?? typeof error);
};

export const traceparentFrom = (span: Span): string => {
  const { traceId, spanId, traceFlags } = span.spanContext();
  return `00-${traceId}-${spanId}-${traceFlags & TraceFlags.SAMPLED ? '01' : '00'}`;
};

const isSampled = (traceparent: string): boolean =>
  (Number.parseInt(traceparent.slice(-2), 16) & TraceFlags.SAMPLED) !== 0 && traceparentOf(traceparent) !== undefined;

const contextOf = (traceparent: string): SpanContext => ({
  traceId: traceparent.slice(3, 35),
  spanId: traceparent.slice(36, 52),
  traceFlags: Number.parseInt(traceparent.slice(53), 16),
  isRemote: true,
});

const samplersOf = ({
  OTEL_TRACES_SAMPLER: sampler = 'parentbased_always_on',
  OTEL_TRACES_SAMPLER_ARG: ratio = 1,
}: Partial<TelemetrySettings>): { sampler: Sampler; below: Sampler } => {
  const [, isParentBased, name] = /^(parentbased_)?(.*)$/.exec(sampler)!;
  const root =
    name === 'always_off'
      ? new AlwaysOffSampler()
      : name === 'traceidratio'
        ? new TraceIdRatioBasedSampler(ratio)
        : new AlwaysOnSampler();
  return isParentBased
    ? { sampler: new ParentBasedSampler({ root }), below: new AlwaysOnSampler() }
    : { sampler: root, below: root };
};
