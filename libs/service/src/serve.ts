import 'reflect-metadata';
import { setFlagsFromString } from 'node:v8';
import { Logger, Module, type DynamicModule, type OnApplicationShutdown } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { z } from 'zod';
import { ConfigurationError, env } from '#config';
import { awaitedDatabases } from '#database';
import type { EventBusAddress } from '#events';
import { GrpcListener, GrpcModule, type GrpcListening } from '#grpc';
import { HealthModule, MetricsModule, Readiness, type Condition } from '#health';
import { MessagingModule, awaitedBrokers, hostsOf, listenForMessages, type Address } from '#messaging';
import {
  Authenticator,
  ServiceSecrets,
  exposureFaults,
  securityEnvironment,
  type Exposure,
  type RequestsFrom,
} from '#security';
import { RequestLog, Traces, processLog, telemetryEnvironment } from '#telemetry';
import { apiDocument } from './api-document.js';
import { useServiceLog } from './log.js';
import {
  closeOnSignals,
  connectionLimits,
  createRestApp,
  mountDocs,
  openApiDocument,
  usualConnectionLimits,
  type CurrentDocument,
  type DocumentOptions,
  type RestAppOptions,
  StartupServer,
  listenAt,
  withUsedTags,
} from '#rest';

/** Twice as long as the gateway keeps an idle connection. */
const drainDelayMs = 2_000;

/** Where a process answers REST, which callers it trusts, and how it is observed. */
export const restEnvironment = (port: number) => ({
  HOST: env.host('127.0.0.1'),
  PORT: env.port(port),
  HTTP_HEADERS_MS: env.milliseconds(usualConnectionLimits.headersMs),
  HTTP_REQUEST_MS: env.milliseconds(usualConnectionLimits.requestMs),
  HTTP_ANSWER_MS: env.milliseconds(usualConnectionLimits.answerMs),
  HTTP_KEEP_ALIVE_MS: env.milliseconds(usualConnectionLimits.keepAliveMs),
  HTTP_MAX_CONNECTIONS: env.count(usualConnectionLimits.maxConnections),
  /** For TLS termination in front of the process. */
  HSTS_SECONDS: env.seconds.optional(),
  ...securityEnvironment,
  ...telemetryEnvironment,
});

type RestEnvironment = z.output<z.ZodObject<ReturnType<typeof restEnvironment>>>;
/** The same settings as a `Service` takes them: only the address is required. */
export type RestSettings = Pick<RestEnvironment, 'HOST' | 'PORT'> & Partial<RestEnvironment>;

export interface Service extends RestSettings {
  /** The name of the process in the log. */
  name: string;
  document: DocumentOptions;
  modules: DynamicModule[];
  /** Who sends its requests; `gateway` if left out. */
  from?: RequestsFrom;
  /** Whether it forwards requests to other processes. */
  passesOn?: boolean;
  /** Where the modules accept messages from other processes. */
  listen?: Address[];
  /** The event bus of the modules. */
  EVENTS_AT?: EventBusAddress;
  /** The settings of gRPC, if it is served. */
  grpc?: GrpcListening;
  /** Prepares the app before it is initialised, for example by registering plugins. */
  prepare?: (app: NestFastifyApplication) => Promise<void>;
  /** Derives the document to show from the app's own, on every request, if it contains more than that. */
  currentDocument?: CurrentDocument;
  /** What to stop after the app, in this order. */
  after?: (() => Promise<unknown>)[];
}

/** The app of a service, complete but not listening: `serve` starts it, and the OpenAPI document is generated from it. */
export const createService = async (
  { document, modules, prepare, currentDocument, ...settings }: Service,
  options: Pick<RestAppOptions, 'drainDelayMs' | 'requestLog'> = {},
): Promise<NestFastifyApplication> => {
  const authenticator = new Authenticator(settings);
  const secrets = settings.SERVICE_SECRET && new ServiceSecrets(settings.SERVICE_SECRET);
  const imports = [
    MessagingModule.forRoot({ secrets }),
    SecurityModule.with(authenticator, secrets),
    ...[HealthModule, MetricsModule.register(settings), GrpcModule],
    ...modules,
  ];
  const app = await createRestApp(
    { module: ServiceModule, imports },
    { ...options, authenticator, ...clientOptions(settings) },
  );
  await prepare?.(app);
  const whole = openApiDocument(app, { tags: apiDocument.tags, ...document });
  mountDocs(app, currentDocument ? whole : withUsedTags(whole), currentDocument);
  return app;
};

/** The settings about clients. */
const clientOptions = (settings: Partial<RestEnvironment>): RestAppOptions => ({
  corsOrigins: settings.CORS_ORIGINS,
  hstsSeconds: settings.HSTS_SECONDS,
  connections: {
    headersMs: settings.HTTP_HEADERS_MS,
    requestMs: settings.HTTP_REQUEST_MS,
    answerMs: settings.HTTP_ANSWER_MS,
    keepAliveMs: settings.HTTP_KEEP_ALIVE_MS,
    maxConnections: settings.HTTP_MAX_CONNECTIONS,
  },
});

@Module({})
class ServiceModule {}

@Module({})
class SecurityModule implements OnApplicationShutdown {
  constructor(private readonly authenticator: Authenticator) {}

  async onApplicationShutdown(): Promise<void> {
    await this.authenticator.rates?.close();
  }

  static with(authenticator: Authenticator, secrets: ServiceSecrets | undefined): DynamicModule {
    const providers = [
      { provide: Authenticator, useValue: authenticator },
      { provide: ServiceSecrets, useValue: secrets },
    ];
    return { module: SecurityModule, global: true, providers, exports: [Authenticator, ServiceSecrets] };
  }
}

/**
 * Refuses to start with an insecure configuration.
 *
 * @throws ConfigurationError
 */
export const refuseUnsafeExposure = (exposure: Exposure): void => {
  const faults = exposureFaults(exposure);
  if (faults.length > 0) throw new ConfigurationError(faults);
};

const eventsOf = ({ EVENTS_AT: at }: Service): Address[] => (at?.scheme === 'nats' ? [at] : []);

/**
 * Starts a service and keeps it running until the process is told to stop. Until its dependencies are available, it reports
 * that it is not ready.
 *
 * @returns the address it answers at
 */
export const serve = async (service: Service): Promise<string> => {
  refuseUnsafeExposure({
    ...service,
    from: service.from ?? 'gateway',
    passesOn: service.passesOn ?? false,
    grpcAt: service.grpc?.at,
    messagesAt: [...(service.listen ?? []), ...eventsOf(service)].flatMap(hostsOf),
  });
  const { name } = service;
  const requestLog = new RequestLog({ isComplete: service.LOG_REQUESTS, slowMs: service.LOG_SLOW_MS });
  processLog.service = name;
  const startupServer = new StartupServer({ ...service, ...clientOptions(service) }, () => [
    ...[...awaitedDatabases()].map(([it, why]) => ({ name: `${it}-database`, why })),
    ...[...awaitedBrokers()].map(([it, why]) => ({ name: messagesBy(it), why })),
  ]);
  let closing: { close(): Promise<void> } = startupServer;
  let isStopping = false;
  const close = (): Promise<void> => {
    isStopping = true;
    return closing.close();
  };
  closeOnSignals({ close }, { after: service.after ?? [] });
  const start = async (): Promise<NestFastifyApplication> => {
    const app = await createService(service, { drainDelayMs, requestLog });
    closing = app;
    app.get(Traces).open(name, service);
    const readiness = app.get(Readiness);
    const brokers = await listenForMessages(app, service.listen ?? [], () => readiness.canServe());
    for (const [broker, isReached] of brokers)
      readiness.add(messagesBy(broker), () => Promise.resolve(conditionOf(broker, isReached())));
    const limits = connectionLimits(clientOptions(service).connections);
    if (service.grpc) await app.get(GrpcListener).open(app, { ...service.grpc, limits }, requestLog);
    return app;
  };
  const app = await startupServer.during(start()).catch((error: unknown) => {
    // If the process is told to stop while it waits, the start never completes, which is not an error to report.
    if (isStopping) return new Promise<never>(() => undefined);
    throw error;
  });
  await startupServer.close();
  const url = (await listenAt(app, service)).replace('[::1]', 'localhost');
  const { isOpen, auditLog } = app.get(Authenticator);
  if (!auditLog && service.from !== undefined && service.from !== 'gateway')
    new Logger('Security').warn('no audit log is written: set ACCESS_DATABASE_URL to change that');
  if (isOpen) {
    const open = 'authentication is off: everybody on this machine may do everything, as the tenant default';
    new Logger('Security').warn(`${open}. Set ADMIN_KEY or OIDC_ISSUER to change that.`);
  }
  new Logger(name).log(`answers at ${url}, Swagger UI at ${url}/docs`);
  return url;
};

/** The name in `/health/ready` of a broker that delivers messages from other processes. */
const messagesBy = (broker: string): string => `${broker}-messages`;

/** Without the broker, REST is still answered; messages wait for other instances or fail. */
const conditionOf = (broker: string, isReached: boolean): Condition =>
  isReached ? { isDegraded: false, details: {} } : { isDegraded: true, details: { [broker]: 'is unreachable' } };

const isForHelp = (argument: string | undefined): boolean => argument === '--help' || argument === '-h';

/** @returns the message for a call with arguments, which no program takes; a call for help starts nothing */
const helpFor = ([argument]: string[]): string | undefined =>
  argument === undefined
    ? undefined
    : `Cleave takes no arguments${isForHelp(argument) ? '' : `, such as ${argument}`}: it is configured by environment ` +
      'variables, as in `PORT=4000 npm start`. They are listed in README.md, under "Settings", and in docs/observability.md.';

/** Runs a program. An error that prevents its start is reported, without a stack if the operator can fix it. */
export const run = (main: () => Promise<unknown>): void => {
  const { argv } = process;
  const help = helpFor(argv.slice(2));
  if (help !== undefined) {
    process.stderr.write(`${help}\n`);
    process.exit(isForHelp(argv[2]) ? 0 : 1);
  }
  useServiceLog();
  // V8 would allocate in the old generation what is made where much of it survived the first collections. If that is a part of
  // each request, every dead one keeps what it refers to alive until the next full collection. Whether a process fell into that
  // state was chance, and lasted: in it, an HTTP hit took 1.5 times as much CPU.
  setFlagsFromString('--no-allocation-site-pretenuring');
  // If the reader of our output is gone, that is no reason to drop requests in flight.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', ignoreClosedPipe);
  // The parent process that holds the IPC channel has ended, so this process should end too.
  if (process.connected) process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
  main().catch((error: unknown) => {
    process.stderr.write(`${complaintOf(error)}\n`);
    process.exit(1);
  });
};

const whereToLook =
  'README.md lists the settings, docs/observability.md those of logs and traces. To try things out, `npm start` and `npm run start:split` need none.';

/**
 * Plain errors and system errors tell the operator what to fix; an error of another class is a bug, so its stack is shown.
 */
const complaintOf = (error: unknown): string | undefined => {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof ConfigurationError) return `${error.message}\n${whereToLook}`;
  const isForPeople = 'code' in error || error.constructor === Error;
  return isForPeople ? error.message : error.stack;
};

/** If a terminal was closed, the code is EIO. */
const ignoreClosedPipe = (error: NodeJS.ErrnoException): void => {
  if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error;
};
