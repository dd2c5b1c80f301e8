import { Global, Inject, Module, type OnApplicationShutdown } from '@nestjs/common';
import { Metrics, Traces, observeProcess } from '#telemetry';
import { LogLevelController } from './log-level.controller.js';
import { MetricsController } from './metrics.controller.js';

/** `GET /metrics`, the level of the log, and the `Metrics` and `Traces` that every module reports to. */
@Global()
@Module({
  controllers: [MetricsController, LogLevelController],
  providers: [
    { provide: Metrics, useFactory: () => new Metrics() },
    { provide: Traces, useFactory: () => new Traces() },
  ],
  exports: [Metrics, Traces],
})
export class MetricsModule implements OnApplicationShutdown {
  private readonly stopSampling: () => void;

  constructor(
    @Inject(Metrics) private readonly metrics: Metrics,
    @Inject(Traces) private readonly traces: Traces,
  ) {
    this.stopSampling = observeProcess(metrics.meter('process'));
  }

  async onApplicationShutdown(): Promise<void> {
    this.stopSampling();
    await Promise.all([this.metrics.stop(), this.traces.close()]);
  }
}
