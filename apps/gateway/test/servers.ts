import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { Logger } from '@nestjs/common';
import { createService } from '#service';
import { gateway } from '#gateway';

Logger.overrideLogger(false);

/** A request that reached an upstream; health checks are not recorded. */
interface Received {
  method: string;
  url: string;
  headers: IncomingMessage['headers'];
  body: Buffer;
}

export interface FakeUpstream {
  url: string;
  server: Server;
  received: Received[];
  /** Answers a request once its body has been read. */
  answer: (request: Received, response: ServerResponse) => void | Promise<void>;
  stop(): Promise<void>;
}

export const startUpstream = async (answer?: FakeUpstream['answer'], port = 0): Promise<FakeUpstream> => {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const { method = '', url = '', headers } = request;
      const received = { method, url, headers, body: Buffer.concat(chunks) };
      // Health checks are probes of the gateway, not requests of callers.
      if (!url.startsWith('/health/')) upstream.received.push(received);
      void upstream.answer(received, response);
    });
  });
  const url = await listen(server, port);
  const upstream: FakeUpstream = {
    url,
    server,
    received: [],
    answer: answer ?? ((_request, response) => void response.end('{}')),
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
  return upstream;
};

const listen = async (server: Server, port: number): Promise<string> => {
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
};

export const jsonAnswer = (response: ServerResponse, status: number, value: unknown): void => {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
};

export interface RunningGateway {
  url: string;
  port: number;
  close(): Promise<void>;
}

type Settings = Parameters<typeof gateway>[0];

type Urls = Record<'order' | 'inventory' | 'cache' | 'payment' | 'sales' | 'webhooks', string>;

/** Uses one address for every service. */
export const allAt = (url: string): Urls => ({
  ...{ order: url, inventory: url, cache: url, payment: url, sales: url, webhooks: url },
});

export const startGateway = async (
  urls: Urls,
  options: Pick<Settings, 'proxy' | 'documents' | 'HTTP_ANSWER_MS' | 'ORDER_BALANCE'> = {},
): Promise<RunningGateway> => {
  const app = await createService(
    gateway({
      HOST: '127.0.0.1',
      PORT: 0,
      ORDER_URL: urls.order.split(','),
      INVENTORY_URL: urls.inventory.split(','),
      CACHE_URL: urls.cache.split(','),
      PAYMENT_URL: urls.payment.split(','),
      SALES_URL: urls.sales.split(','),
      WEBHOOKS_URL: urls.webhooks.split(','),
      ...options,
    }),
  );
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, port, close: () => app.close() };
};

/** The bytes of an HTTP request. */
export const requestBytes = (line: string, headers: string[] = [], body: Buffer | string = ''): Buffer =>
  Buffer.concat([
    Buffer.from(
      [`${line} HTTP/1.1`, 'host: localhost', 'connection: close', ...headers, '', ''].join('\r\n'),
      'latin1',
    ),
    Buffer.from(body),
  ]);

export interface RawAnswer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

/** Sends raw bytes, and resolves to the answer once the server has closed the connection. */
export const raw = async (url: string, bytes: Buffer): Promise<RawAnswer> => {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  // A server that refuses a body may close the connection before all of it was sent.
  socket.on('error', () => socket.destroy());
  await once(socket, 'connect');
  socket.write(bytes);
  await once(socket, 'close');
  return answerIn(Buffer.concat(chunks).toString('utf8'));
};

const answerIn = (text: string): RawAnswer => {
  const [head = '', ...rest] = text.split('\r\n\r\n');
  const [statusLine = '', ...fields] = head.split('\r\n');
  const headers = Object.fromEntries(
    fields.map((field) => [
      field.slice(0, field.indexOf(':')).toLowerCase(),
      field.slice(field.indexOf(':') + 1).trim(),
    ]),
  );
  return { status: Number(statusLine.split(' ')[1]), headers, body: rest.join('\r\n\r\n') };
};
