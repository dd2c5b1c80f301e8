import { Body, Controller, Get, Header, Logger, Put } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { Endpoint, valid } from '#rest';
import { logLevels, processLog } from '#telemetry';

const longestMs = 86_400_000;

const level = z.enum(logLevels);
const logLevelDocument = z.object({ level }).meta({ id: 'LogLevel' });
const logLevelRequest = z
  .strictObject({
    level,
    for_ms: z
      .int()
      .min(1)
      .max(longestMs)
      .optional()
      .meta({ description: 'After so many milliseconds it becomes what it was; it stays when this is left out.' }),
  })
  .meta({ id: 'LogLevelRequest', examples: [{ level: 'debug', for_ms: 600_000 }] });

@ApiTags('health')
@Controller('admin/log-level')
export class LogLevelController {
  private readonly logger = new Logger('Log');

  @Get()
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'operator',
    operationId: 'getLogLevel',
    summary: 'Read what this process logs',
    replies: { 200: { schema: logLevelDocument, description: 'The level from which on lines are written' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  read(): z.output<typeof logLevelDocument> {
    return { level: processLog.level };
  }

  @Put()
  @Endpoint({
    scope: 'operator',
    operationId: 'putLogLevel',
    summary: 'Choose what this process logs',
    description: 'Of the process that is asked and of no other, until it ends.',
    replies: { 200: { schema: logLevelDocument, description: 'The level from now on' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  put(
    @Body(valid(logLevelRequest)) { level, for_ms }: z.output<typeof logLevelRequest>,
  ): z.output<typeof logLevelDocument> {
    const before = processLog.level;
    processLog.setLevel(level, for_ms);
    this.logger.warn(`the level of the log is ${level} and was ${before}`);
    return { level };
  }
}
