import { once } from 'node:events';
import { createServer } from 'node:http';
import { createServer as createSocketServer, type AddressInfo, type Server } from 'node:net';
import { carryOut } from '../commands.js';
import { answer, wholeOf } from './answer.js';
import type { EchoCommands } from './commands.js';

/** The cost of HTTP alone: reads the whole request, and answers as many bytes as there are in the answer to an order. */
const listenByNode = async (): Promise<string> => {
  const server = createServer((request, response) => {
    request.resume().on('end', () => {
      const { bytes } = answer;
      response.writeHead(201, { 'content-type': 'application/json; charset=utf-8', 'content-length': bytes.length });
      response.end(bytes);
    });
  });
  return addressOf(server);
};

/**
 * The cost of sockets alone: answers each chunk with the same bytes. Each request must be one chunk, and its caller must wait
 * for the answer.
 */
const listenBySocket = async (): Promise<string> => {
  const server = createSocketServer({ noDelay: true }, (socket) => {
    socket.on('error', () => undefined);
    socket.on('data', () => socket.write(answer.whole));
  });
  return addressOf(server);
};

const addressOf = async (server: Server): Promise<string> => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
};

carryOut({
  listen: async ({ server }) => {
    if (server === 'node') return listenByNode();
    if (server === 'socket') return listenBySocket();
    // Imported on demand, so that plain Node runs without the frameworks in its process.
    const { listenByFastify, listenByNest } = await import('./frameworks.js');
    return server === 'nest' ? listenByNest() : listenByFastify();
  },
  answerWith: ({ text }) => {
    answer.bytes = Buffer.from(text);
    answer.whole = wholeOf(answer.bytes);
    answer.value = text === '' ? undefined : JSON.parse(text);
  },
} satisfies EchoCommands);
