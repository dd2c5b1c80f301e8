import { Body, Controller, Get, Header, Logger, Optional, Put, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { CleaveError, invalidRequest } from '#contracts';
import { CalledBy, Endpoint, valid } from '#rest';
import type { Caller } from '#security';
import { logLevels, processLog } from '#telemetry';
import { UpstreamLogLevels, type LogLevelChange, type Told } from './upstream-log-levels.js';

const longestMs = 86_400_000;

const level = z.enum(logLevels);
const logLevelQuery = z.strictObject({
  service: z
    .string()
    .optional()
    .meta({
      description:
        'A service that this process forwards requests to: all its instances answer. This process itself if left ' +
        'out.',
    }),
});
const instanceFound = z.union([
  z.object({ address: z.string(), level }),
  z.object({ address: z.string(), why: z.string().meta({ description: 'Why the level is not known.' }) }),
]);
const logLevelDocument = z
  .union([
    z.object({ level: level.meta({ description: 'The log level of this process.' }) }),
    z.object({ instances: z.array(instanceFound).meta({ description: 'The instances of the service.' }) }),
  ])
  .meta({ id: 'LogLevel', examples: [{ level: 'info' }] });
const logLevelRequest = z
  .strictObject({
    level,
    for_ms: z
      .int()
      .min(1)
      .max(longestMs)
      .optional()
      .meta({ description: 'Milliseconds after which the earlier level returns. The new level stays if left out.' }),
    service: z
      .string()
      .optional()
      .meta({
        description:
          'A service that this process forwards requests to, such as `order` at the gateway: changes all its ' +
          'instances. This process itself if left out.',
      }),
  })
  .meta({
    id: 'LogLevelRequest',
    examples: [
      { level: 'debug', for_ms: 600_000 },
      { level: 'debug', for_ms: 600_000, service: 'order' },
    ],
  });
const logLevelChanged = z
  .object({
    level,
    told: z
      .array(z.string())
      .optional()
      .meta({ description: 'The addresses of the instances that have the new level.' }),
    not_told: z
      .array(z.object({ address: z.string(), why: z.string() }))
      .optional()
      .meta({ description: 'Instances that did not confirm. Repeat the request.' }),
  })
  .meta({ id: 'LogLevelChanged' });

@ApiTags('health')
@Controller('admin/log-level')
export class LogLevelController {
  private readonly logger = new Logger('Log');

  constructor(@Optional() private readonly upstreams?: UpstreamLogLevels) {}

  @Get()
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'operator',
    operationId: 'getLogLevel',
    summary: 'Read the log level of this process, or of a service behind it',
    replies: { 200: { schema: logLevelDocument, description: 'The log level' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  async read(
    @Query(valid(logLevelQuery)) { service }: z.output<typeof logLevelQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof logLevelDocument>> {
    if (service === undefined) return { level: processLog.level };
    const instances = await this.logsOf(service).ask(service, caller);
    const unknown = instances.filter((it) => 'why' in it);
    if (unknown.length === instances.length) throw noneAnswers(service, 'answers', unknown);
    return { instances };
  }

  @Put()
  @Endpoint({
    scope: 'operator',
    operationId: 'putLogLevel',
    summary: 'Change the log level of this process, or of a service behind it',
    description:
      'Changes the process that answers this request and no other, or the present instances of `service`, until ' +
      'they end. The answer is 200 if at least one of them has changed; it names those that did not confirm.',
    replies: { 200: { schema: logLevelChanged, description: 'The new level, and the instances that have it' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  async put(
    @Body(valid(logLevelRequest)) { service, ...change }: z.output<typeof logLevelRequest>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof logLevelChanged>> {
    if (service !== undefined) return this.tell(service, change, caller);
    const before = processLog.level;
    processLog.setLevel(change.level, change.for_ms);
    this.logger.warn(`the log level is ${change.level} and was ${before}`);
    return { level: change.level };
  }

  private async tell(
    service: string,
    change: LogLevelChange,
    caller: Caller,
  ): Promise<z.output<typeof logLevelChanged>> {
    const { told, not_told } = await this.logsOf(service).tell(service, change, caller);
    if (told.length === 0) throw noneAnswers(service, 'confirmed the change', not_told);
    this.logger.warn(`the log level of ${service} is ${change.level} on ${told.join(', ')}`);
    return { level: change.level, told, not_told };
  }

  private logsOf(service: string): UpstreamLogLevels {
    if (!this.upstreams?.services.includes(service)) throw unknownService(this.upstreams?.services ?? []);
    return this.upstreams;
  }
}

const unknownService = (services: readonly string[]): CleaveError =>
  invalidRequest(
    'service',
    services.length > 0
      ? `must be ${services.join(' or ')}`
      : 'is only for a process that forwards requests, such as the gateway; leave it out here',
  );

const noneAnswers = (service: string, does: string, refused: Told['not_told']): CleaveError => {
  const why = refused.map((it) => `${it.address}: ${it.why}`).join('; ') || 'no address of it is known';
  return new CleaveError(
    'unavailable',
    `No instance of ${service} ${does} (${why}). Repeat the request when one is available.`,
  );
};
