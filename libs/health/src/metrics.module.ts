import { Global, Inject, Module, type OnApplicationShutdown } from '@nestjs/common';
import { Metrics, observeProcess } from '#telemetry';
import { MetricsController } from './metrics.controller.js';

/** `GET /metrics`, and the `Metrics` that every module may take a meter from. */
@Global()
@Module({
  controllers: [MetricsController],
  providers: [{ provide: Metrics, useFactory: () => new Metrics() }],
  exports: [Metrics],
})
export class MetricsModule implements OnApplicationShutdown {
  private readonly stopSampling: () => void;

  constructor(@Inject(Metrics) private readonly metrics: Metrics) {
    this.stopSampling = observeProcess(metrics.meter('process'));
  }

  async onApplicationShutdown(): Promise<void> {
    this.stopSampling();
    await this.metrics.stop();
  }
}
