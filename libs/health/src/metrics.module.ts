import { Module, type DynamicModule, type OnApplicationShutdown } from '@nestjs/common';
import { Metrics, Traces, observeProcess, type TelemetrySettings } from '#telemetry';
import { LogLevelController } from './log-level.controller.js';
import { MetricsController } from './metrics.controller.js';

/** `GET /metrics`, the log level, and the `Metrics` and `Traces` that every module reports to. */
@Module({ controllers: [MetricsController, LogLevelController] })
export class MetricsModule implements OnApplicationShutdown {
  private readonly stopSampling: () => void;

  constructor(
    private readonly metrics: Metrics,
    private readonly traces: Traces,
  ) {
    this.stopSampling = observeProcess(metrics.meter('process'));
  }

  static register({ OTEL_SDK_DISABLED: isOff = false }: Partial<TelemetrySettings> = {}): DynamicModule {
    const providers = [
      { provide: Metrics, useFactory: () => new Metrics(isOff) },
      { provide: Traces, useFactory: () => new Traces() },
    ];
    return { module: MetricsModule, global: true, providers, exports: [Metrics, Traces] };
  }

  async onApplicationShutdown(): Promise<void> {
    this.stopSampling();
    await Promise.all([this.metrics.stop(), this.traces.close()]);
  }
}
