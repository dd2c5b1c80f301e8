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
    summary: 'Read what is measured',
    description: 'Of this process, since it was started, in the text format of Prometheus.',
    replies: { 200: { writtenAs: 'text/plain', description: 'Everything that is measured' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  async read(): Promise<string> {
    const { text, errors } = await this.metrics.read();
    for (const error of errors) this.logger.warn(`Something measured cannot be read: ${String(error)}`);
    return text;
  }
}
