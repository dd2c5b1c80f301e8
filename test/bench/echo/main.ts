import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { carryOut } from '../commands.js';
import type { EchoCommands } from './commands.js';

/** What HTTP alone costs: takes in the whole request and answers as many bytes as an order is answered with. */
let answer = Buffer.from('{}');

const server = createServer((request, response) => {
  request.resume().on('end', () => {
    response.writeHead(201, { 'content-type': 'application/json; charset=utf-8', 'content-length': answer.length });
    response.end(answer);
  });
});

carryOut({
  listen: async () => {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  },
  answerWith: ({ text }) => {
    answer = Buffer.from(text);
  },
} satisfies EchoCommands);
