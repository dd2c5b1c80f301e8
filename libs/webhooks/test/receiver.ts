import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo, Socket } from 'node:net';
import { Webhook } from 'standardwebhooks';

export interface Received {
  path: string;
  headers: Record<string, string>;
  body: string;
}

/** The endpoint of a merchant: records every message, and answers as the test sets it. */
export class Receiver {
  readonly received: Received[] = [];
  /** All connections that were ever made. */
  readonly sockets = new Set<Socket>();
  answer: (response: ServerResponse, received: Received) => Promise<void> | void = (response) => void response.end();
  private readonly server: Server = createServer((request, response) => void this.take(request, response));

  constructor() {
    this.server.on('connection', (socket) => this.sockets.add(socket));
  }

  async start(): Promise<this> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return this;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  url(path = '/'): string {
    return `http://127.0.0.1:${this.port}${path}`;
  }

  /** The messages that were sent to a path. */
  at(path: string): Received[] {
    return this.received.filter((it) => it.path === path);
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  private async take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const received = {
      path: request.url!,
      headers: request.headers as Record<string, string>,
      body: Buffer.concat(chunks).toString(),
    };
    this.received.push(received);
    await this.answer(response, received);
  }
}

/** Verifies as a receiver would, with the official library. @throws if the message was not signed with the secret */
export const verified = ({ body, headers }: Received, secret: string): unknown =>
  new Webhook(secret).verify(body, headers);

export const answering =
  (status: number, headers: Record<string, string> = {}, body = '') =>
  (response: ServerResponse): void =>
    void response.writeHead(status, headers).end(body);
