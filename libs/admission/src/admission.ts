import { Global, Injectable, Module, Optional, type OnApplicationShutdown } from '@nestjs/common';
import { Metrics } from '#telemetry';
import { Limiter } from './limiter.js';

const sampledEveryMs = 20;
/** The weight of a new sample in the mean. */
const weight = 0.2;

/** The limiters of an app: one for each class of requests, so that no class can starve another. */
@Injectable()
export class Admission implements OnApplicationShutdown {
  private readonly limiters = new Map<string, Limiter>();
  private loopDelayMs = 0;
  private sampledAtMs = performance.now();
  private readonly sampling = setInterval(() => this.sample(), sampledEveryMs).unref();

  constructor(@Optional() metrics?: Metrics) {
    if (metrics) this.observe(metrics);
  }

  /** The limiter of a class, which is also its label in the metrics; always the same object for one name. */
  limiterOf(name: string): Limiter {
    const limiter = this.limiters.get(name) ?? new Limiter(undefined, undefined, () => this.loopDelayMs);
    this.limiters.set(name, limiter);
    return limiter;
  }

  onApplicationShutdown(): void {
    clearInterval(this.sampling);
  }

  private sample(): void {
    const now = performance.now();
    const delayMs = Math.max(0, now - this.sampledAtMs - sampledEveryMs);
    this.loopDelayMs += (delayMs - this.loopDelayMs) * weight;
    this.sampledAtMs = now;
  }

  private observe(metrics: Metrics): void {
    const meter = metrics.meter('admission');
    const limit = meter.createObservableGauge('admission.limit', {
      description: 'The concurrency limit of a class of requests.',
    });
    const inFlight = meter.createObservableGauge('admission.in_flight', {
      description: 'Requests of a class in flight.',
    });
    const shed = meter.createObservableCounter('admission.shed', {
      description: 'Requests refused because the concurrency limit was reached.',
    });
    meter.addBatchObservableCallback(
      (result) => {
        for (const [name, limiter] of this.limiters) {
          const attributes = { class: name };
          result.observe(limit, limiter.limit, attributes);
          result.observe(inFlight, limiter.inFlight, attributes);
          result.observe(shed, limiter.shed, attributes);
        }
      },
      [limit, inFlight, shed],
    );
  }
}

@Global()
@Module({ providers: [Admission], exports: [Admission] })
export class AdmissionModule {}
