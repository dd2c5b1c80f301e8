import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import type { Server } from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { cannotListen } from './startup-server.js';

/**
 * Connections that the kernel completes before the process accepts them (Linux: at most `net.core.somaxconn`, 4,096). With
 * Node's default of 511, a busy process that many callers connect to at once makes them try again after one, three, seven
 * and fifteen seconds.
 */
const backlog = 4_096;

/**
 * Makes an app listen; at `localhost` on all addresses of that name, IPv4 and IPv6.
 *
 * @returns its URL, even if the app was closed in the meantime
 * @throws Error that names the address and a remedy if one of the addresses cannot be used
 */
export const listenAt = async (app: NestFastifyApplication, at: { HOST: string; PORT: number }): Promise<string> => {
  try {
    // Given the name, Fastify would start one server per address and, on close, wait for only one of them.
    return await listenAtAll(app, at.HOST === 'localhost' ? await addressesOf(at.HOST) : [at.HOST], at.PORT);
  } catch (error) {
    throw cannotListen(at, error);
  }
};

/**
 * Makes an app listen on all given addresses that this machine has, with one port.
 *
 * @param port 0 for any free port
 */
export const listenAtAll = async (
  app: NestFastifyApplication,
  addresses: readonly string[],
  port: number,
): Promise<string> => {
  const found = addresses.length > 1 ? await placeFor(addresses, port) : { present: addresses, port };
  // If none is present, listening on the first reports why.
  const [first = addresses[0] as string, ...others] = found.present;
  await app.listen({ port: found.port, host: first, backlog });
  const url = await app.getUrl();
  for (const address of others) await listenAlsoAt(app.getHttpServer(), address);
  return url;
};

const addressesOf = async (name: string): Promise<string[]> => [
  ...new Set((await lookup(name, { all: true })).map(({ address }) => address)),
];

const codeOf = (error: unknown): unknown => (error as NodeJS.ErrnoException).code;
/** These errors mean that this machine lacks the address, so no client can connect to it. */
const absent = new Set<unknown>(['EADDRNOTAVAIL', 'EAFNOSUPPORT']);
/** A port that is free at one address is rarely taken at another. */
const mostTries = 10;

/** Finds the addresses that this machine has and, for port 0, a port that is free at all of them. */
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
 * Makes a listening server accept connections at another address with the same port. They become the server's own
 * connections, so closing it closes this address too and waits for them. Does nothing if the server is already closing.
 */
export const listenAlsoAt = async (server: Server, host: string): Promise<void> => {
  const place = server.address();
  if (!place) return;
  const { port } = place as AddressInfo;
  const door = createServer({ noDelay: true, allowHalfOpen: true }, (socket) => server.emit('connection', socket));
  const close = server.close.bind(server);
  // Overridden before listening starts, because the server may be closed in between.
  server.close = (done) => {
    door.close();
    // On the second close, the callback runs when the last connection is gone.
    return close((error) => door.close(() => done?.(error)));
  };
  // If closed before listening starts, node may or may not emit `listening`.
  door.once('listening', () => {
    if (!server.listening) door.close();
  });
  const closed = new Promise((resolve) => door.once('close', resolve));
  await Promise.race([once(door.listen({ host, port, backlog }), 'listening'), closed]);
  door.on('error', (error) => server.emit('error', error));
};
