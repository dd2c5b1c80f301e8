import { Controller, Get, Header, Logger } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { Endpoint } from '#rest';
import { Metrics, metricsType } from '#telemetry';

@ApiTags('health')
@Controller('metrics')
export class MetricsController {
  private readonly logger = new Logger('Metrics');

  constructor(private readonly metrics: Metrics) {}

  @Get()
  @Header('Cache-Control', 'no-store')
  @Header('Content-Type', metricsType)
  @Endpoint({
    scope: 'open',
    operationId: 'getMetrics',
    summary: 'Read the metrics',
    description: 'Of this process, since it started, in the text format of Prometheus.',
    replies: { 200: { writtenAs: 'text/plain', description: 'All metrics' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  async read(): Promise<string> {
    const { text, errors } = await this.metrics.read();
    for (const error of errors) this.logger.warn(`A metric cannot be read: ${String(error)}`);
    return text;
  }
}
