import { Body, Controller, Get, Header, Inject, Logger, Optional, Put, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { CleaveError, invalidRequest } from '#contracts';
import { CalledBy, Endpoint, valid } from '#rest';
import type { Caller } from '#security';
import { logLevels, processLog } from '#telemetry';
import { LogsBehind, type LogLevelChange, type Told } from './logs-behind.js';

const longestMs = 86_400_000;

const level = z.enum(logLevels);
const logLevelQuery = z.strictObject({
  service: z.string().optional().meta({
    description:
      'A service that the process passes requests on to: all its instances; the process itself when left out.',
  }),
});
const instanceFound = z.union([
  z.object({ address: z.string(), level }),
  z.object({ address: z.string(), why: z.string().meta({ description: 'Why its level is not known.' }) }),
]);
const logLevelDocument = z
  .union([
    z.object({ level: level.meta({ description: 'Of the process itself.' }) }),
    z.object({ instances: z.array(instanceFound).meta({ description: 'Those of the service that was asked for.' }) }),
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
      .meta({ description: 'After so many milliseconds it becomes what it was; it stays when this is left out.' }),
    service: z
      .string()
      .optional()
      .meta({
        description:
          'A service that the process passes requests on to, such as `order` at the gateway, to tell all its instances; ' +
          'the process itself when left out.',
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
      .meta({ description: 'The addresses of the instances of the service that log so now.' }),
    not_told: z
      .array(z.object({ address: z.string(), why: z.string() }))
      .optional()
      .meta({ description: 'Those that have not said so: they may not have heard of it. Repeat it.' }),
  })
  .meta({ id: 'LogLevelChanged' });

@ApiTags('health')
@Controller('admin/log-level')
export class LogLevelController {
  private readonly logger = new Logger('Log');

  constructor(@Optional() @Inject(LogsBehind) private readonly behind?: LogsBehind) {}

  @Get()
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'operator',
    operationId: 'getLogLevel',
    summary: 'Read what this process logs, or a service behind it',
    replies: { 200: { schema: logLevelDocument, description: 'The level from which on lines are written' } },
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
    summary: 'Choose what this process logs, or a service behind it',
    description:
      'Of the process that is asked and of no other, or of those that are instances of `service` at that moment; until ' +
      'they end. The answer is 200 where at least one of them has taken it, and names the others.',
    replies: { 200: { schema: logLevelChanged, description: 'The level from now on, and of which instances' } },
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
    this.logger.warn(`the level of the log is ${change.level} and was ${before}`);
    return { level: change.level };
  }

  private async tell(
    service: string,
    change: LogLevelChange,
    caller: Caller,
  ): Promise<z.output<typeof logLevelChanged>> {
    const { told, not_told } = await this.logsOf(service).tell(service, change, caller);
    if (told.length === 0) throw noneAnswers(service, 'has taken it', not_told);
    this.logger.warn(`the level of the log of ${service} is ${change.level} at ${told.join(', ')}`);
    return { level: change.level, told, not_told };
  }

  private logsOf(service: string): LogsBehind {
    if (!this.behind?.services.includes(service)) throw unknownService(this.behind?.services ?? []);
    return this.behind;
  }
}

const unknownService = (services: readonly string[]): CleaveError =>
  invalidRequest(
    'service',
    services.length > 0
      ? `must be ${services.join(' or ')}`
      : 'is for a process that passes requests on, such as the gateway; leave it out here',
  );

const noneAnswers = (service: string, does: string, refused: Told['not_told']): CleaveError => {
  const why = refused.map((it) => `${it.address}: ${it.why}`).join('; ') || 'it has no address';
  return new CleaveError('unavailable', `No instance of ${service} ${does} (${why}). Repeat it when one is there.`);
};
