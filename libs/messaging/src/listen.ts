import { Admission } from '#admission';
import { Logger, type INestApplication } from '@nestjs/common';
import type { CustomTransportStrategy } from '@nestjs/microservices';
import { addressText, type Address, type Endpoint } from './address.js';
import { InProcessServer } from './in-process.js';
import { Messenger } from './messenger.js';
import { NatsServer } from './nats-server.js';
import type { ObservedCalls } from './observed-calls.js';
import { RedisServer } from './redis-server.js';
import { TcpServer } from './tcp-server.js';

interface MessageServer extends CustomTransportStrategy {
  calls: ObservedCalls;
  /** Whether the broker that requests come through is reached; undefined for transports without one. */
  readonly isReached?: boolean;
}

function serverAt(
  at: Address,
  { hub, signing }: Messenger,
  admission: Admission,
  canServe: () => Promise<boolean>,
): MessageServer {
  switch (at.scheme) {
    case 'in-process':
      return new InProcessServer(hub);
    case 'tcp':
      if (at.endpoints.length !== 1) throw new Error(`${addressText(at)} must name exactly one host:port to listen at`);
      return new TcpServer(at.endpoints[0] as Endpoint, admission, signing, canServe);
    case 'redis':
      return new RedisServer(at.url, admission, signing, canServe);
    case 'nats':
      return new NatsServer(at, admission, signing, canServe);
  }
}

/** The NATS client keeps the system's error code in a nested cause. */
const codeOf = (error: unknown): string | undefined => {
  const { code, cause } = error as NodeJS.ErrnoException;
  return code ?? (cause ? codeOf(cause) : undefined);
};

function whyNot(error: unknown): string {
  const { message } = error as Error;
  const code = codeOf(error);
  if (code === 'EADDRINUSE') return 'the port is in use; stop what uses it or choose another';
  if (code === 'EACCES') return 'this port requires more privileges; choose one above 1023';
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') return 'this machine does not have that host address';
  if (message.startsWith('MOVED'))
    return 'it is a Redis Cluster, which cannot carry requests; use a single Redis, or NATS';
  return message || String(error);
}

const brokers = { redis: 'Redis', nats: 'NATS' } as const;
const isBroker = (at: Address): at is Extract<Address, { scheme: keyof typeof brokers }> => at.scheme in brokers;
const sayAfterMs = 1_000;
const sayEveryMs = 60_000;

/** The brokers that are not reached yet, with a message for callers. */
const awaited = new Map<string, string>();
export const awaitedBrokers = (): ReadonlyMap<string, string> => awaited;

/** Logs, while a start waits for a broker, that it does. */
async function saidWhileWaiting<Result>(at: Address, listening: Promise<Result>): Promise<Result> {
  if (!isBroker(at)) return listening;
  const { scheme } = at;
  const logger = new Logger('Messages');
  const say = (): void =>
    logger.warn(`Startup waits for ${brokers[scheme]} at ${addressText(at)}: start it, or correct the address.`);
  const timers = [setTimeout(say, sayAfterMs), setInterval(say, sayEveryMs)];
  awaited.set(
    scheme,
    `${brokers[scheme]}, through which this process receives requests, is unreachable; the log has its address.`,
  );
  try {
    return await listening;
  } finally {
    awaited.delete(scheme);
    for (const timer of timers) clearTimeout(timer);
  }
}

/**
 * Serves the application's `@Answers` methods in-process, and at each of the given addresses (duplicates count once), once
 * all modules have been initialised. When the application closes, accepted requests are answered before the transports
 * close, and the transports close before the shutdown hooks of the modules run. Messages have their own Nest pipeline:
 * global guards, pipes, interceptors and filters of the REST side do not apply to them, those of a controller or method do.
 *
 * While Redis or NATS is not reachable yet, it waits, as for a database.
 *
 * @param canServe whether the application is ready; asked for before an instance that was ejected gets requests again
 * @returns for each broker in use (`redis`, `nats`), a function that tells whether it is reached at present
 * @throws Error that names the address and what is wrong with it, or a module that is configured as in-process and is not
 */
export async function listenForMessages(
  app: INestApplication,
  listen: readonly Address[],
  canServe: () => Promise<boolean> = () => Promise.resolve(true),
): Promise<ReadonlyMap<string, () => boolean>> {
  const throughBrokers = new Map<string, MessageServer[]>();
  await app.init();
  const messenger = app.get(Messenger, { strict: false });
  const named = new Map(listen.map((at) => [addressText(at), at]));
  const elsewhere = [...named.values()].filter(({ scheme }) => scheme !== 'in-process');
  const admission = app.get(Admission, { strict: false });
  for (const at of [{ scheme: 'in-process' } as const, ...elsewhere]) {
    const strategy = serverAt(at, messenger, admission, canServe);
    strategy.calls = messenger.calls;
    const microservice = app.connectMicroservice({ strategy });
    try {
      await saidWhileWaiting(at, microservice.listen());
    } catch (error) {
      const message = `Cannot listen for messages at ${addressText(at)}: ${whyNot(error)}`;
      throw new Error(message, { cause: error });
    }
    if (at.scheme === 'in-process') messenger.refuseAbsentModules();
    if (isBroker(at)) throughBrokers.set(at.scheme, [...(throughBrokers.get(at.scheme) ?? []), strategy]);
  }
  return new Map(
    [...throughBrokers].map(([broker, servers]) => [broker, () => servers.every(({ isReached }) => isReached)]),
  );
}
