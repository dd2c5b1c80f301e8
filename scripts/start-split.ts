import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { cacheEnvironment } from '#cache';
import { env, readEnvironment } from '#config';
import { gatewayEnvironment } from '#gateway';
import { inventoryEnvironment } from '#inventory';
import { listenAddress } from '#messaging';
import { orderEnvironment } from '#order';
import { paymentEnvironment } from '#payment';
import { closeOnSignals } from '#rest';
import { salesEnvironment } from '#sales';
import { securityEnvironment } from '#security';
import {
  databaseEnvironment,
  refuseUnsafeExposure,
  restEnvironment,
  run,
  startDatabaseFor,
  togetherFallbacks,
  welcome,
} from '#service';
import { telemetryEnvironment } from '#telemetry';
import { webhooksEnvironment } from '#webhooks';

type Variables = Record<string, string>;

/** A service that is kept running. */
interface Service {
  name: string;
  url: string;
  variables: Variables;
  child?: ChildProcess;
}

const readyTimeoutMs = 60_000;
const askTimeoutMs = 5_000;
const stopTimeoutMs = 30_000;
const shortestPauseMs = 100;
const longestPauseMs = 5_000;

const highestPort = 65_535 - 2_001;
const messageAddress = listenAddress
  .refine(
    ({ scheme }) => scheme !== 'in-process',
    'must lead to another process: tcp://host:port, redis://host:port or nats://host:port',
  )
  .optional();

/** The environment of all services, read here so that every fault is reported before anything starts. */
const splitEnvironment = {
  ...restEnvironment(3000),
  PORT: env
    .port(3000)
    .refine(
      (port) => port > 0 && port <= highestPort,
      `must be from 1 to ${highestPort}, because the services use PORT + 1 to PORT + 2001 as well`,
    ),
  ...orderEnvironment,
  ...inventoryEnvironment,
  ...cacheEnvironment,
  ...paymentEnvironment,
  ...salesEnvironment,
  ...webhooksEnvironment,
  ...databaseEnvironment,
  DATA_DIR: env.directory('.data'),
  ORDER_AT: messageAddress,
  INVENTORY_AT: messageAddress,
  CACHE_AT: messageAddress,
  PAYMENT_AT: messageAddress,
};

/** The variables of these names that are set. */
const given = (variables: string[]): Variables =>
  Object.fromEntries(
    variables.flatMap((variable) => {
      const value = process.env[variable];
      return value ? [[variable, value]] : [];
    }),
  );

/** What the runtime and the system need from the environment; other variables only go to the services that read them. */
const systemVariables = [
  ...['PATH', 'HOME', 'TMPDIR', 'TZ', 'LANG', 'LC_ALL', 'NO_COLOR', 'NODE_ENV', 'NODE_OPTIONS', 'NODE_EXTRA_CA_CERTS'],
  ...['NODE_COMPILE_CACHE', 'SystemRoot', 'TEMP', 'USERPROFILE'],
];

/** HTTP limits, timeouts and HSTS, for the service that callers reach. */
const doorVariables = Object.keys(restEnvironment(0)).filter((it) => /^(?:HTTP|HSTS)_/.test(it));

/** Logging and tracing of the services, without `OTEL_SERVICE_NAME`, because each has its own. */
const observed = (): Variables => {
  const variables = [...Object.keys(telemetryEnvironment), ...Object.keys(process.env)].filter(
    (it) => /^(?:LOG|OTEL)_/.test(it) && it !== 'OTEL_SERVICE_NAME',
  );
  return { LOG_FORMAT: isForPeople ? 'text' : 'json', ...given(variables) };
};

const isForPeople = process.stdout.isTTY || process.env['LOG_FORMAT'] === 'text';

/** Variables that the Postgres driver reads itself, such as PGPASSWORD. */
const postgresVariables = (): string[] => Object.keys(process.env).filter((variable) => variable.startsWith('PG'));

/** Starts each module and the gateway as processes of their own on this machine, and keeps them running. */
run(async () => {
  const { HOST, PORT, DATA_DIR, DEMO_PRODUCTS, ...settings } = readEnvironment(splitEnvironment, process.env, {
    fallbacks: togetherFallbacks(process.env),
    defaults: {
      DEMO_PRODUCTS: process.env['INVENTORY_DATABASE_URL'] || process.env['DATABASE_URL'] ? 'false' : 'true',
    },
  });
  // A gateway that authenticates callers signs what it tells the services; if no secret is configured, one is made up.
  const asks = settings.ADMIN_KEY !== undefined || settings.OIDC_ISSUER !== undefined;
  const secrets = settings.SERVICE_SECRET ?? (asks ? [randomBytes(32).toString('hex')] : undefined);
  const ofServices: Variables = secrets === undefined ? {} : { SERVICE_SECRET: secrets.join() };
  refuseUnsafeExposure({
    ...settings,
    SERVICE_SECRET: secrets,
    ...{ HOST, from: 'callers', passesOn: true, grpcAt: settings.ORDER_GRPC_LISTEN },
  });
  const database = await startDatabaseFor(settings, DATA_DIR);
  const madeKeys = (keys: string | undefined): Variables => (keys === undefined ? {} : { DATA_KEYS: keys });

  const orderAt = process.env['ORDER_AT'] || `tcp://127.0.0.1:${PORT + 1001}`;
  const inventoryAt = process.env['INVENTORY_AT'] || `tcp://127.0.0.1:${PORT + 1002}`;
  const cacheAt = process.env['CACHE_AT'] || `tcp://127.0.0.1:${PORT + 1003}`;
  const paymentAt = process.env['PAYMENT_AT'] || `tcp://127.0.0.1:${PORT + 1004}`;
  const urlOf = (offset: number) => `http://127.0.0.1:${PORT + offset}`;
  const behind = (name: string, offset: number, variables: Variables): Service => ({
    name,
    url: urlOf(offset),
    variables: { ...variables, ...ofServices, HOST: '127.0.0.1', PORT: String(PORT + offset) },
  });
  const services: Service[] = [
    behind('cache', 3, { ...given(Object.keys(cacheEnvironment)), CACHE_LISTEN: cacheAt }),
    behind('payment', 4, {
      ...given([...Object.keys(paymentEnvironment), ...postgresVariables()]),
      PAYMENT_DATABASE_URL: database.urls.PAYMENT_DATABASE_URL,
      PAYMENT_LISTEN: paymentAt,
    }),
    behind('inventory', 2, {
      ...given([...Object.keys(inventoryEnvironment), ...postgresVariables()]),
      INVENTORY_DATABASE_URL: database.urls.INVENTORY_DATABASE_URL,
      INVENTORY_LISTEN: inventoryAt,
      CACHE_AT: cacheAt,
      DEMO_PRODUCTS: String(DEMO_PRODUCTS),
    }),
    behind('order', 1, {
      ...given([...Object.keys(orderEnvironment), ...Object.keys(securityEnvironment), ...postgresVariables()]),
      ACCESS_DATABASE_URL: database.urls.ACCESS_DATABASE_URL,
      ORDER_DATABASE_URL: database.urls.ORDER_DATABASE_URL,
      ...madeKeys(database.dataKeys.ORDER),
      ORDER_LISTEN: orderAt,
      ORDER_GRPC_LISTEN: settings.ORDER_GRPC_LISTEN ?? `127.0.0.1:${PORT + 2001}`,
      INVENTORY_AT: inventoryAt,
      PAYMENT_AT: paymentAt,
    }),
    behind('sales', 5, {
      ...given([...Object.keys(salesEnvironment), ...postgresVariables()]),
      SALES_DATABASE_URL: database.urls.SALES_DATABASE_URL,
      ...{ ORDER_AT: orderAt, INVENTORY_AT: inventoryAt },
    }),
    behind('webhooks', 6, {
      ...given([...Object.keys(webhooksEnvironment), ...postgresVariables()]),
      WEBHOOKS_DATABASE_URL: database.urls.WEBHOOKS_DATABASE_URL,
      ...madeKeys(database.dataKeys.WEBHOOKS),
      ORDER_AT: orderAt,
    }),
    {
      name: 'gateway',
      url: `http://${HOST.includes(':') ? `[${HOST}]` : HOST}:${PORT}`,
      variables: {
        ...given([...Object.keys(gatewayEnvironment), ...Object.keys(securityEnvironment), ...postgresVariables()]),
        ...given(doorVariables),
        ...ofServices,
        ACCESS_DATABASE_URL: database.urls.ACCESS_DATABASE_URL,
        ...{ HOST, PORT: String(PORT) },
        ...{ ORDER_URL: urlOf(1), INVENTORY_URL: urlOf(2), CACHE_URL: urlOf(3) },
        ...{ PAYMENT_URL: urlOf(4), SALES_URL: urlOf(5), WEBHOOKS_URL: urlOf(6) },
      },
    },
  ];

  const supervisor = new Supervisor(services);
  closeOnSignals(
    { close: () => supervisor.stop() },
    { after: [database.stop], patienceMs: stopTimeoutMs * services.length },
  );
  try {
    await supervisor.start();
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    await supervisor.stop();
    await database.stop();
    process.exit(1);
  }
  if (!supervisor.isStopping) welcome(services.at(-1)!.url, DEMO_PRODUCTS, settings.ADMIN_KEY !== undefined);
});

class Supervisor {
  isStopping = false;

  constructor(private readonly services: Service[]) {}

  /** Starts the gateway last, when the services behind it are running. */
  async start(): Promise<void> {
    await Promise.all(this.services.slice(0, -1).map((service) => this.launch(service)));
    if (!this.isStopping) await this.launch(this.services.at(-1)!);
  }

  /** Stops from the gateway inwards, so that running requests can still be finished by the services behind. */
  async stop(): Promise<void> {
    this.isStopping = true;
    for (const { child } of this.services.toReversed()) {
      if (!child || child.exitCode !== null || child.signalCode !== null) continue;
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      const inTime = await Promise.race([ended, delay(stopTimeoutMs, undefined, { ref: false })]);
      if (!inTime) child.kill('SIGKILL');
    }
  }

  /** Resolves once it is ready for the first time; from then on it is restarted whenever it ends. */
  private async launch(service: Service): Promise<void> {
    const ended = this.spawn(service);
    const obstacle = await this.untilReady(service, ended);
    if (this.isStopping) return;
    if (obstacle) throw new Error(`${service.name} did not become ready (${obstacle}); see its lines above.`);
    void this.keepRunning(service, ended);
  }

  private async keepRunning(service: Service, firstEnd: Promise<string>): Promise<void> {
    let ended = firstEnd;
    let pauseMs = shortestPauseMs;
    for (;;) {
      const how = await ended;
      if (this.isStopping) return;
      process.stderr.write(`${service.name} ended (${how}); starting it again\n`);
      await delay(pauseMs);
      if (this.isStopping) return;
      ended = this.spawn(service);
      const obstacle = await this.untilReady(service, ended);
      pauseMs = obstacle ? Math.min(2 * pauseMs, longestPauseMs) : shortestPauseMs;
    }
  }

  /** @returns how the process ends */
  private spawn(service: Service): Promise<string> {
    const main = fileURLToPath(new URL(`../apps/${service.name}/src/main.js`, import.meta.url));
    const child = spawn(process.execPath, ['--enable-source-maps', '--max-semi-space-size=32', main], {
      env: { ...given(systemVariables), ...observed(), ...service.variables },
      // The IPC channel tells the child when this process is gone; its own process group keeps Ctrl-C away from it.
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      detached: process.platform !== 'win32',
    });
    service.child = child;
    for (const stream of [child.stdout!, child.stderr!])
      // JSON lines already contain the name of the service.
      createInterface(stream).on('line', (line) =>
        process.stdout.write(line.startsWith('{') ? `${line}\n` : `${service.name.padEnd(9)} | ${line}\n`),
      );
    return once(child, 'exit').then(
      ([code, signal]) => String(signal ?? `exit code ${code}`),
      (error: Error) => error.message,
    );
  }

  /** @returns why it is not ready; undefined if it is */
  private async untilReady(service: Service, ended: Promise<string>): Promise<string | undefined> {
    let end: string | undefined;
    void ended.then((how) => (end = how));
    const giveUpAt = Date.now() + readyTimeoutMs;
    while (end === undefined && Date.now() < giveUpAt) {
      const signal = AbortSignal.timeout(askTimeoutMs);
      // A connection that is kept alive would delay the service's shutdown.
      const headers = { connection: 'close' };
      const answer = await fetch(`${service.url}/health/ready`, { signal, headers }).catch(() => undefined);
      if (answer?.ok) return undefined;
      await delay(100);
    }
    return end ?? 'it took too long';
  }
}
