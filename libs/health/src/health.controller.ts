import { Controller, Get, Header, Logger, Res, ServiceUnavailableException } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { HealthCheckService, HealthIndicatorService, type HealthCheckResult } from '@nestjs/terminus';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { CleaveError } from '#contracts';
import { Endpoint, fullHeader } from '#rest';
import { Readiness, checkWithinMs, type Check, type Condition } from './readiness.js';

const indicators = z.record(z.string(), z.looseObject({ status: z.enum(['up', 'degraded', 'down']) }));

const healthReport = z
  .object({
    status: z.enum(['ok', 'degraded', 'error', 'shutting_down']),
    info: indicators.optional().meta({ description: 'Dependencies that can be used.' }),
    error: indicators.optional().meta({ description: 'Dependencies that cannot be used.' }),
    details: indicators.meta({ description: 'All dependencies.' }),
  })
  .meta({ id: 'HealthReport' });

@ApiTags('health')
@Controller('health')
export class HealthController {
  private readonly logger = new Logger('Health');
  private readonly down = new Set<string>();

  constructor(
    private readonly health: HealthCheckService,
    private readonly indicator: HealthIndicatorService,
    private readonly readiness: Readiness,
  ) {}

  @Get('live')
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'open',
    operationId: 'getLiveness',
    summary: 'Check that the process is alive',
    description: 'Checks nothing but the process itself. If this fails, restart the process.',
    replies: { 200: { schema: healthReport, description: 'The process is alive' } },
    errors: [],
    isAlwaysAdmitted: true,
  })
  live(): Promise<HealthCheckResult> {
    return this.health.check([]);
  }

  @Get('ready')
  @Header('Cache-Control', 'no-store')
  @Endpoint({
    scope: 'open',
    operationId: 'getReadiness',
    summary: 'Check that the process can serve requests',
    description:
      'Checks everything the process depends on. If this fails, send it no requests; it may recover by itself. ' +
      'If the status is `degraded`, it can serve requests, but somebody should look at the cause.',
    replies: {
      200: { schema: healthReport, description: 'The process can serve requests' },
      503: {
        schema: healthReport,
        description:
          'The process cannot serve requests: something it depends on fails, it has reached its limit of ' +
          'connections, or it is shutting down',
      },
    },
    errors: [],
    isAlwaysAdmitted: true,
  })
  async ready(@Res({ passthrough: true }) reply: FastifyReply): Promise<HealthCheckResult> {
    const report = reply.hasHeader(fullHeader) ? reportOfFull() : await this.report();
    if (this.readiness.shuttingDown) report.status = 'shutting_down';
    if (report.status === 'error' || report.status === 'shutting_down') reply.code(503);
    return report;
  }

  private async report(): Promise<HealthCheckResult> {
    const reasons = new Map<string, unknown>();
    const checks = [...this.readiness.checks].map(([name, check]) => async () => {
      const indicator = this.indicator.check(name);
      let condition: Condition | undefined;
      const result = await indicator
        .attempt(async () => (condition = await this.run(name, check, reasons))?.details)
        .withTimeout(checkWithinMs);
      return condition?.isDegraded && result[name]?.status === 'up' ? indicator.degraded(condition.details) : result;
    });
    const report = await this.health.check(checks).catch((error: unknown) => {
      if (error instanceof ServiceUnavailableException) return error.getResponse() as HealthCheckResult;
      throw error;
    });
    this.logChanges(report, reasons);
    return report;
  }

  /**
   * Keeps the reason for the log. The reason may name servers and users, so callers see only what was written for them: the
   * detail of a `CleaveError`, which says what to do.
   */
  private async run(name: string, check: Check, reasons: Map<string, unknown>): Promise<Condition | undefined> {
    try {
      return (await check()) ?? undefined;
    } catch (error) {
      reasons.set(name, error);
      const told = error instanceof CleaveError ? error.detail : 'cannot be used; the log says why';
      throw new Error(told, { cause: error });
    }
  }

  /** Health is probed every few seconds, so only changes are logged. */
  private logChanges({ details }: HealthCheckResult, reasons: Map<string, unknown>): void {
    for (const [name, { status, message }] of Object.entries(details)) {
      if (status !== 'down' && this.down.delete(name)) this.logger.log(`${name} can be used again.`);
      if (status !== 'down' || this.down.has(name)) continue;
      this.down.add(name);
      this.logger.warn(`${name} cannot be used: ${inWords(reasons.get(name) ?? message)}`);
    }
  }
}

/** New clients are refused and should use another instance, which no check reports. */
const reportOfFull = (): HealthCheckResult => {
  const message = 'The maximum number of connections (HTTP_MAX_CONNECTIONS) is reached; further ones are refused.';
  const error = { connections: { status: 'down', message } } as const;
  return { status: 'error', info: {}, error, details: error };
};

const inWords = (reason: unknown): string =>
  reason instanceof Error && reason.cause !== undefined
    ? `${String(reason)} (${String(reason.cause)})`
    : String(reason);
