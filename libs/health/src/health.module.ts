import { Global, Module, Optional } from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { TerminusModule } from '@nestjs/terminus';
import type { FastifyInstance } from 'fastify';
import { Metrics } from '#telemetry';
import { HealthController } from './health.controller.js';
import { observeReadiness } from './readiness-metrics.js';
import { Readiness } from './readiness.js';

/** `GET /health/live` and `GET /health/ready`, and the `Readiness` that every module may add its checks to. */
@Global()
@Module({
  // The controller logs failures itself: once each, and without the addresses of servers.
  imports: [TerminusModule.forRoot({ logger: false })],
  controllers: [HealthController],
  providers: [Readiness],
  exports: [Readiness],
})
export class HealthModule {
  constructor(readiness: Readiness, { httpAdapter }: HttpAdapterHost, @Optional() metrics?: Metrics) {
    if (metrics) observeReadiness(metrics.meter('health'), readiness);
    // Runs when closing begins, before the server stops listening and before any module is destroyed.
    const fastify: FastifyInstance | undefined = httpAdapter?.getInstance();
    fastify?.addHook('preClose', (done) => {
      readiness.shutDown();
      done();
    });
  }
}
