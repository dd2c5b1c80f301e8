import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import type { Server } from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { cannotListen } from './waiting-room.js';

/**
 * Has an app listen; at `localhost` at all the addresses of that name, those of IPv4 and IPv6.
 *
 * @returns its URL, also where it was closed meanwhile
 * @throws Error that names the address and what to do where one of them is not to be had
 */
export const listenAt = async (app: NestFastifyApplication, at: { HOST: string; PORT: number }): Promise<string> => {
  try {
    // Given the name, Fastify would start a server for each address, and close but one of them without waiting.
    return await listenAtAll(app, at.HOST === 'localhost' ? await addressesOf(at.HOST) : [at.HOST], at.PORT);
  } catch (error) {
    throw cannotListen(at, error);
  }
};

/** Has an app listen at those of the addresses that this machine has, at one port. @param port 0 for any that is free */
export const listenAtAll = async (
  app: NestFastifyApplication,
  addresses: readonly string[],
  port: number,
): Promise<string> => {
  const found = addresses.length > 1 ? await placeFor(addresses, port) : { present: addresses, port };
  // Where there is none at all, the first tells why.
  const [first = addresses[0] as string, ...others] = found.present;
  await app.listen(found.port, first);
  const url = await app.getUrl();
  for (const address of others) await listenAlsoAt(app.getHttpServer(), address);
  return url;
};

const addressesOf = async (name: string): Promise<string[]> => [
  ...new Set((await lookup(name, { all: true })).map(({ address }) => address)),
];

const codeOf = (error: unknown): unknown => (error as NodeJS.ErrnoException).code;
/** What this machine does not have, nobody comes by. */
const absent = new Set<unknown>(['EADDRNOTAVAIL', 'EAFNOSUPPORT']);
/** A port that is free at one address is hardly ever taken at another. */
const mostTries = 10;

/** Which of the addresses this machine has, and for port 0 one that is free at all of them. */
const placeFor = async (
  addresses: readonly string[],
  port: number,
  triesLeft = mostTries,
): Promise<{ present: string[]; port: number }> => {
  const present: string[] = [];
  let free = 0;
  const held = [];
  try {
    for (const host of addresses) {
      const server = createServer();
      try {
        await once(server.listen({ host, port: free }), 'listening');
      } catch (error) {
        if (!absent.has(codeOf(error))) throw error;
        continue;
      }
      held.push(server);
      present.push(host);
      if (port === 0) free = (server.address() as AddressInfo).port;
    }
    return { present, port: port === 0 ? free : port };
  } catch (error) {
    if (codeOf(error) !== 'EADDRINUSE' || triesLeft <= 1) throw error;
  } finally {
    await Promise.all(held.map((server) => once(server.close(), 'close')));
  }
  return placeFor(addresses, port, triesLeft - 1);
};

/**
 * Has a server, which listens, take connections at another address too, at the same port. They are its own: told when it
 * closes, and waited for. Does nothing where it is closing already.
 */
export const listenAlsoAt = async (server: Server, host: string): Promise<void> => {
  const place = server.address();
  if (!place) return;
  const { port } = place as AddressInfo;
  const door = createServer({ noDelay: true, allowHalfOpen: true }, (socket) => server.emit('connection', socket));
  const close = server.close.bind(server);
  // Before it listens: the server may be closed while it is about to.
  server.close = (done) => {
    door.close();
    // Closed for the second time, it tells when the last of its connections is gone.
    return close((error) => door.close(() => done?.(error)));
  };
  // What is closed before it listens does not tell that it does, or does so nevertheless.
  door.once('listening', () => {
    if (!server.listening) door.close();
  });
  const closed = new Promise((resolve) => door.once('close', resolve));
  await Promise.race([once(door.listen({ host, port }), 'listening'), closed]);
  door.on('error', (error) => server.emit('error', error));
};
