import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';

/** The answer to one request: a status with body and headers, or a function that handles the response. */
export type Scripted =
  { status: number; body?: unknown; headers?: Record<string, string> } | ((response: ServerResponse) => void);

export interface Heard {
  method: string;
  url: string;
  headers: Record<string, string | string[] | undefined>;
  body: unknown;
  /** Milliseconds since the epoch. */
  at: number;
}

/** Receives the request and closes the connection without an answer. */
export const dropped: Scripted = (response) => response.destroy();
/** Receives the request and never answers. */
export const silent: Scripted = () => undefined;

export const problem = (status: number, code: string, headers: Record<string, string> = {}): Scripted => ({
  status,
  body: { type: `/problems/${code}`, title: code, status, code, detail: `${code} it is` },
  headers: { 'content-type': 'application/problem+json', ...headers },
});

/** An HTTP server that gives scripted answers in turn, and records the requests. */
export class ScriptedServer {
  readonly heard: Heard[] = [];
  private readonly script: Scripted[] = [];

  private constructor(private readonly server: Server) {
    server.on('request', (request, response) => {
      void text(request).then((body) => {
        const { method = '', url = '', headers } = request;
        this.heard.push({ method, url, headers, body: body === '' ? undefined : JSON.parse(body), at: Date.now() });
        this.answer(response, this.script.shift() ?? problem(500, 'not-in-the-script'));
      });
    });
  }

  static async start(): Promise<ScriptedServer> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new ScriptedServer(server);
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Sets the script, and forgets earlier requests. */
  answers(...script: Scripted[]): void {
    this.heard.splice(0);
    this.script.splice(0, Infinity, ...script);
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  private answer(response: ServerResponse, scripted: Scripted): void {
    if (typeof scripted === 'function') return scripted(response);
    const { status, body, headers } = scripted;
    response.writeHead(status, { 'content-type': 'application/json', ...headers });
    response.end(body === undefined ? undefined : JSON.stringify(body));
  }
}
