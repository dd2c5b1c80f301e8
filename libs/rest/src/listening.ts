import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import type { Server } from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { cannotListen } from './waiting-room.js';

/**
 * Has an app listen; at `localhost` at all the addresses of that name, those of IPv4 and IPv6.
 *
 * @throws Error that names the address and what to do where one of them is not to be had
 */
export const listenAt = async (app: NestFastifyApplication, at: { HOST: string; PORT: number }): Promise<void> => {
  try {
    // Given the name, Fastify would start a server for each address, and close but one of them without waiting.
    const [first, ...others] = at.HOST === 'localhost' ? await addressesOf(at.HOST) : [at.HOST];
    await app.listen(at.PORT, first as string);
    for (const address of others) await listenAlsoAt(app.getHttpServer(), address);
  } catch (error) {
    throw cannotListen(at, error);
  }
};

const addressesOf = async (name: string): Promise<string[]> => [
  ...new Set((await lookup(name, { all: true })).map(({ address }) => address)),
];

/** What this machine does not have, nobody comes by. */
const absent = new Set<unknown>(['EADDRNOTAVAIL', 'EAFNOSUPPORT']);

/**
 * Has a server, which listens, take connections at another address too, at the same port. They are its own: told when it
 * closes, and waited for.
 */
export const listenAlsoAt = async (server: Server, host: string): Promise<void> => {
  const { port } = server.address() as AddressInfo;
  const door = createServer({ noDelay: true, allowHalfOpen: true }, (socket) => server.emit('connection', socket));
  try {
    await once(door.listen({ host, port }), 'listening');
  } catch (error) {
    if (absent.has((error as NodeJS.ErrnoException).code)) return;
    throw error;
  }
  door.on('error', (error) => server.emit('error', error));
  const close = server.close.bind(server);
  server.close = (done) => {
    door.close();
    // Closed for the second time, it tells when the last of its connections is gone.
    return close((error) => door.close(() => done?.(error)));
  };
};
