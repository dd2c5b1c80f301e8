import { Admission } from '#admission';
import type { INestApplication } from '@nestjs/common';
import type { CustomTransportStrategy } from '@nestjs/microservices';
import { addressText, type Address, type Endpoint } from './address.js';
import { InProcessServer } from './in-process.js';
import { Messenger } from './messenger.js';
import { NatsServer } from './nats-server.js';
import type { ObservedCalls } from './observed-calls.js';
import { RedisServer } from './redis-server.js';
import { TcpServer } from './tcp-server.js';

function serverAt(
  at: Address,
  { hub, signing }: Messenger,
  admission: Admission,
): CustomTransportStrategy & { calls: ObservedCalls } {
  switch (at.scheme) {
    case 'in-process':
      return new InProcessServer(hub);
    case 'tcp':
      if (at.endpoints.length !== 1) throw new Error(`${addressText(at)} must name exactly one host:port to listen at`);
      return new TcpServer(at.endpoints[0] as Endpoint, admission, signing);
    case 'redis':
      return new RedisServer(at.url, admission, signing);
    case 'nats':
      return new NatsServer(at, admission, signing);
  }
}

/** The client of NATS keeps what the system said as the cause of the cause. */
const codeOf = (error: unknown): string | undefined => {
  const { code, cause } = error as NodeJS.ErrnoException;
  return code ?? (cause ? codeOf(cause) : undefined);
};

function whyNot(error: unknown): string {
  const { message } = error as Error;
  const code = codeOf(error);
  if (code === 'EADDRINUSE') return 'the port is in use; stop what uses it or choose another';
  if (code === 'EACCES') return 'this port needs more rights; choose one above 1023';
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') return 'this machine does not have that host address';
  if (code === 'ECONNREFUSED') return 'nothing answers there; start it or correct the address';
  return message || String(error);
}

/**
 * Makes the application's `@Answers` methods answer at the given addresses, one that is given twice counting once, and
 * in-process in any case, once all its modules have been initialised. When the application closes, what has been accepted is answered before the transports
 * go, and the transports before the shutdown hooks of the modules run. Messages have their own Nest pipeline: the global
 * guards, pipes, interceptors and filters of the REST side do not apply to them, those of a controller or method do.
 *
 * @throws Error that names the address and what is wrong with it, or a module that is said to be in-process and is not
 */
export async function listenForMessages(app: INestApplication, listen: readonly Address[]): Promise<void> {
  await app.init();
  const messenger = app.get(Messenger, { strict: false });
  const named = new Map(listen.map((at) => [addressText(at), at]));
  const elsewhere = [...named.values()].filter(({ scheme }) => scheme !== 'in-process');
  const admission = app.get(Admission, { strict: false });
  for (const at of [{ scheme: 'in-process' } as const, ...elsewhere]) {
    const strategy = serverAt(at, messenger, admission);
    strategy.calls = messenger.calls;
    const microservice = app.connectMicroservice({ strategy });
    try {
      await microservice.listen();
    } catch (error) {
      const message = `Cannot listen for messages at ${addressText(at)}: ${whyNot(error)}`;
      throw new Error(message, { cause: error });
    }
    if (at.scheme === 'in-process') messenger.refuseAbsentModules();
  }
}
