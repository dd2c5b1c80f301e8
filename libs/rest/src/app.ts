import { Module, Optional, type DynamicModule, type LoggerService, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyInstance } from 'fastify';
import { Admission, AdmissionModule } from '#admission';
import { limits } from '#contracts';
import { Authenticator } from '#security';
import { Metrics, RequestLog, Traces } from '#telemetry';
import { limitRoutes } from './admission.js';
import { auditRoutes } from './audit.js';
import { readJsonBodies } from './body.js';
import { BrowserHeaders, type BrowserOptions } from './browser-headers.js';
import { connectionLimits, type GivenConnectionLimits } from './connections.js';
import { callDirectly } from './direct-handlers.js';
import { guardRoutes } from './guard.js';
import { ObservedRequests } from './observed-requests.js';
import { ProblemFilter, ProblemsModule } from './problems.js';
import { RestAdapter } from './rest-adapter.js';
import { refuseUnreadQueries } from './unread-queries.js';

export interface RestAppOptions extends BrowserOptions {
  logger?: LoggerService;
  /** Authenticates callers. If left out, every caller may do everything. */
  authenticator?: Authenticator;
  /** The largest request body accepted, in bytes. */
  bodyLimitBytes?: number;
  /**
   * How long a closing app keeps accepting connections while any client is connected, in milliseconds, although it already
   * reports not ready. Each response in that time carries `Connection: close`. A client that keeps idle connections for
   * less than this time closes them itself; those that are left are closed with a refusal.
   */
  drainDelayMs?: number;
  /** How long a closing app waits for requests in flight before it cuts their connections, in milliseconds. */
  drainTimeoutMs?: number;
  requestLog?: RequestLog;
  connections?: GivenConnectionLimits;
}

@Module({})
class RestModule {
  constructor(
    @Optional() readonly metrics?: Metrics,
    @Optional() readonly traces?: Traces,
  ) {}
}

/**
 * A Nest app on Fastify that reads JSON, answers errors as problem documents and finishes requests in flight when it is
 * closed. It does not listen yet: mount the documents, then call `listen`.
 *
 * @throws any error that keeps the root module from starting
 */
export const createRestApp = async (
  rootModule: Type | DynamicModule,
  options: RestAppOptions = {},
): Promise<NestFastifyApplication> => {
  const { logger, bodyLimitBytes = limits.bodyBytes, authenticator = new Authenticator() } = options;
  const { drainDelayMs = 0, drainTimeoutMs = 20_000, requestLog = new RequestLog() } = options;
  const observed = new ObservedRequests(requestLog);
  const connections = connectionLimits(options.connections);
  const patienceMs = drainDelayMs + drainTimeoutMs;
  const { isOpen } = authenticator;
  const adapter = new RestAdapter(
    { bodyLimitBytes, patienceMs, connections, browsers: new BrowserHeaders(options), isOpen },
    observed,
  );
  const app = await NestFactory.create<NestFastifyApplication>(
    { module: RestModule, imports: [rootModule, ProblemsModule, AdmissionModule] },
    adapter,
    { bodyParser: false, abortOnError: false, ...(logger && { logger }) },
  );
  const fastify: FastifyInstance = app.getHttpAdapter().getInstance();
  const { metrics, traces } = app.get(RestModule);
  observed.reportTo(metrics, traces);
  readJsonBodies(fastify);
  // Routes are added when the app is initialised. These hooks run in order: a request is authenticated before it is admitted,
  // and what is not admitted is not audited.
  guardRoutes(fastify, authenticator);
  limitRoutes(fastify, app.get(Admission), adapter.loadShedder);
  auditRoutes(fastify, authenticator);
  refuseUnreadQueries(fastify);
  callDirectly(app);
  // This hook runs after those of the modules, which are already registered, so modules announce the shutdown before the
  // delay starts.
  fastify.addHook('preClose', () => adapter.unused(drainDelayMs));
  return app.useGlobalFilters(new ProblemFilter());
};
