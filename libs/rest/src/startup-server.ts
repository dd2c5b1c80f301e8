import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { setTimeout } from 'node:timers/promises';
import { BrowserHeaders, type BrowserOptions } from './browser-headers.js';
import { Connections, fullHeader, usualConnectionLimits } from './connections.js';
import { problemOf, problemType } from './problems.js';
import { refusalOfUnheard } from './raw-answers.js';

const usuallyOpensAfterMs = 1_000;

const notYet =
  'The process is still starting and waits for its dependencies (see GET /health/ready). The request has had no effect; repeat it.';

export const cannotListen = ({ HOST, PORT }: { HOST: string; PORT: number }, cause: unknown): Error => {
  const advice = 'Set HOST and PORT to an address that is free, or stop what uses this one.';
  return new Error(`Cannot serve REST at ${HOST}:${PORT} (${(cause as Error).message}). ${advice}`, { cause });
};

/** What the start waits for. */
interface Dependency {
  name: string;
  why?: string | undefined;
}

/**
 * Answers in place of an app whose start takes long because its database is not there yet or is being migrated. It reports
 * the process as live but not ready, and why, so that an orchestrator neither restarts it nor routes requests to it.
 */
export class StartupServer {
  private readonly server = createServer((request, reply) => this.answer(request, reply));
  private readonly ended = new AbortController();
  private readonly browsers: BrowserHeaders;
  private readonly connections: Connections;
  private opening: Promise<void> = Promise.resolve();

  /**
   * @param awaited what the start waits for, by its name in `/health/ready`, and a reason that callers can read
   * @param opensAfterMs a start that takes no longer than this answers nothing before it is done
   */
  constructor(
    private readonly at: { HOST: string; PORT: number } & BrowserOptions,
    private readonly awaited: () => Dependency[],
    private readonly opensAfterMs = usuallyOpensAfterMs,
  ) {
    this.browsers = new BrowserHeaders(at);
    this.connections = new Connections(this.server, usualConnectionLimits, refusalOfUnheard(this.browsers));
  }

  /**
   * Answers requests while the app starts. If it was opened, it stays open until `close`.
   *
   * @throws Error if it cannot listen
   */
  async during<Result>(start: Promise<Result>): Promise<Result> {
    this.opening = this.openLater();
    try {
      return await Promise.race([start, this.opening.then(() => start)]);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** Resolves once its address is free. Requests that have arrived are answered. */
  async close(): Promise<void> {
    this.ended.abort();
    // It may still be resolving its host name. A failure to listen is reported to the caller that awaits the start.
    await this.opening.catch(() => undefined);
    // A start leaves the event loop no time to accept connections.
    if (this.server.listening) await this.connections.acceptQueued();
    this.server.close();
  }

  private async openLater(): Promise<void> {
    const { signal } = this.ended;
    await setTimeout(this.opensAfterMs, undefined, { signal, ref: false }).catch(() => undefined);
    // With port 0, clients do not know the port before the app reports it.
    if (signal.aborted || this.at.PORT === 0) return;
    this.server.listen(this.at.PORT, this.at.HOST);
    await once(this.server, 'listening').catch((error: unknown) => {
      throw cannotListen(this.at, error);
    });
  }

  private answer(request: IncomingMessage, reply: ServerResponse): void {
    const { method, url = '' } = request;
    const [path] = url.split('?');
    const { fields, isAll } = this.browsers.forPages(request);
    const headers = { ...this.browsers.headers, ...fields, connection: 'close' };
    for (const [name, value] of Object.entries(headers)) reply.setHeader(name, value);
    if (isAll) return void reply.writeHead(204).end();
    // HEAD is answered like GET; the server leaves the body out.
    const isRead = method === 'GET' || method === 'HEAD';
    if (isRead && path === '/health/live') return send(reply, 200, json, health('ok', {}));
    if (isRead && path === '/health/ready') {
      const awaited = this.awaited();
      const checks = awaited.length > 0 ? awaited : [{ name: 'start' }];
      return send(reply, 503, json, health('error', Object.fromEntries(checks.map(downAs))));
    }
    reply.setHeader('retry-after', '1').setHeader(fullHeader, 'start');
    send(reply, 503, problemType, problemOf('unavailable', notYet));
  }
}

const json = 'application/json; charset=utf-8';

const downAs = ({ name, why = 'cannot be used yet; the log says why' }: Dependency): [string, object] => [
  name,
  { status: 'down', message: why },
];

const health = (status: string, error: object) => ({ status, info: {}, error, details: error });

const send = (reply: ServerResponse, status: number, type: string, content: object): void => {
  const text = JSON.stringify(content);
  reply.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
  reply.end(text);
};
