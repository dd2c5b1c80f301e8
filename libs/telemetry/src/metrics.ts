import { createNoopMeter, type Meter } from '@opentelemetry/api';
import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus';
import { emptyResource } from '@opentelemetry/resources';
import { MeterProvider, type MetricData, type MetricProducer, type ResourceMetrics } from '@opentelemetry/sdk-metrics';
import { Durations, type DurationsOptions } from './durations.js';

/** The bucket bounds of response times, in seconds: finest where most of them lie. */
export const answerSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

/** The metrics of one app. Each app has its own, because several may run in one process. */
export class Metrics {
  private readonly durations: { scope: string; name: string; of: Durations }[] = [];
  /** Adds the `Durations` to what a reader collects. The resource that is reported is that of the provider. */
  private readonly producer: MetricProducer = {
    collect: async () => {
      const all = this.durations.map(({ scope: name, of }) => ({ scope: { name }, metrics: [of.read()] }));
      // The SDK leaves out what was never recorded as well.
      const scopeMetrics = all.filter(({ metrics }) => metrics.some(({ dataPoints }) => dataPoints.length > 0));
      return { resourceMetrics: { resource: emptyResource(), scopeMetrics }, errors: [] };
    },
  };
  // Read on request; it does not listen on a port of its own.
  private readonly exporter = new PrometheusExporter({ preventServerStart: true, metricProducers: [this.producer] });
  private readonly provider = new MeterProvider({ readers: [this.exporter] });
  private readonly serializer = new PrometheusSerializer(undefined, false, undefined, true);

  /** @param isOff whether nothing is measured, because of `OTEL_SDK_DISABLED` */
  constructor(private readonly isOff = false) {}

  /** @param scope the name of the module or library that measures */
  meter(scope: string): Meter {
    return this.isOff ? createNoopMeter() : this.provider.getMeter(scope);
  }

  /** For what is measured of every request; the same one for the same scope and name. Undefined if nothing is measured. */
  durationsOf(scope: string, options: DurationsOptions): Durations | undefined {
    if (this.isOff) return undefined;
    const { name } = options;
    const known = this.durations.find((it) => it.scope === scope && it.name === name);
    if (known) return known.of;
    const of = new Durations(options);
    this.durations.push({ scope, name, of });
    return of;
  }

  /** @returns all metrics in the text format of Prometheus, and the errors of those that could not be read */
  async read(): Promise<{ text: string; errors: unknown[] }> {
    if (this.isOff) return { text: '# metrics are off: OTEL_SDK_DISABLED\n', errors: [] };
    const { resourceMetrics, errors } = await this.exporter.collect();
    return { text: this.serializer.serialize(namedForPrometheus(resourceMetrics)), errors };
  }

  async stop(): Promise<void> {
    await this.provider.shutdown();
  }
}

/** The media type of the text format. */
export const metricsType = 'text/plain; version=0.0.4; charset=utf-8';

const unitNames: Readonly<Record<string, string>> = { s: 'seconds', By: 'bytes' };

/**
 * Appends the units to the names, which the serializer does not do.
 *
 * @see https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
 */
const namedForPrometheus = ({ resource, scopeMetrics }: ResourceMetrics): ResourceMetrics => ({
  resource,
  scopeMetrics: scopeMetrics.map(({ scope, metrics }) => ({ scope, metrics: metrics.map(withUnitInName) })),
});

const withUnitInName = <Data extends MetricData>(metric: Data): Data => {
  const { descriptor } = metric;
  const unit = unitNames[descriptor.unit];
  const name = unit ? `${descriptor.name}.${unit}` : descriptor.name;
  // Without the unit itself: `# UNIT` comments belong to OpenMetrics.
  return { ...metric, descriptor: { ...descriptor, name, unit: '' } };
};
