import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Limiter } from '#admission';
import { requestIdOf } from '#telemetry';
import { fullHeader } from './connections.js';
import type { ObservedRequests } from './observed-requests.js';
import { problemOf, problemType, retryAfterOf } from './problems.js';

const detail =
  'The server is overloaded: more requests arrive than it can answer in time. This one has had no effect; repeat it after Retry-After.';

/** The problem document for a request whose limiter is full. */
export const busyProblem = problemOf('unavailable', detail);

const body = JSON.stringify(busyProblem);

/**
 * The number of refusals written at once in one turn of the event loop; further ones are written at its end. libuv reads
 * from up to 1,024 connections and begins anew, up to 48 times in one turn, as long as that many have sent something. Callers
 * who are refused at once send again at once, so that one turn took seconds, and no timer and no `setImmediate` ran, which
 * admitted work depends on.
 */
export const mostInTurn = 256;

/**
 * Sheds load: refuses requests whose limiter is full before the framework sees them. Under overload, refusals outnumber
 * the requests that are served, so their cost decides how much work still gets done: at four times the load that an app
 * can serve, refusals that cost a quarter of a request leave no capacity at all.
 *
 * Covers only routes without parameters. All other requests go through the framework and are refused there.
 */
export class LoadShedder {
  private readonly limiters = new Set<Limiter>();
  private readonly routes = new Map<string, Limiter>();
  private readonly headers: readonly string[];
  private inTurn = 0;
  private held: (() => void)[] = [];

  /** @param headers the headers of every response */
  constructor(
    headers: Readonly<Record<string, string>>,
    private readonly observed: ObservedRequests,
  ) {
    this.headers = [
      ...Object.entries(headers).flat(),
      ...['content-type', `${problemType}; charset=utf-8`, 'content-length', String(Buffer.byteLength(body))],
      ...[fullHeader, 'requests'],
    ];
  }

  /** Registers a route without parameters to be refused here when its limiter is full. */
  add(method: string, url: string, limiter: Limiter): void {
    if (/[:*]/.test(url)) return;
    this.limiters.add(limiter);
    this.routes.set(`${method} ${url}`, limiter);
  }

  /** @returns the full limiter, if the request may be refused here */
  fullFor({ method, url = '' }: IncomingMessage): { limiter: Limiter; path: string } | undefined {
    if (!this.isAnyFull()) return undefined;
    const queryAt = url.indexOf('?');
    const path = queryAt < 0 ? url : url.slice(0, queryAt);
    const limiter = this.routes.get(`${method} ${path}`);
    return limiter?.isFull ? { limiter, path } : undefined;
  }

  refuse(request: IncomingMessage, response: ServerResponse, limiter: Limiter, path: string): void {
    limiter.refuses();
    dropBody(request);
    if (this.inTurn === 0) setImmediate(() => this.endTurn());
    this.inTurn += 1;
    if (this.inTurn <= mostInTurn) this.answer(request, response, limiter, path);
    else this.held.push(() => this.answer(request, response, limiter, path));
  }

  private endTurn(): void {
    const { held } = this;
    this.held = [];
    this.inTurn = 0;
    for (const answer of held) answer();
  }

  private answer(request: IncomingMessage, response: ServerResponse, limiter: Limiter, path: string): void {
    const requestId = requestIdOf(request.headers['x-request-id']);
    const retryAfter = retryAfterOf(limiter.retryAfterMs());
    response.writeHead(503, [...this.headers, 'x-request-id', requestId, 'retry-after', retryAfter]);
    response.end(body);
    this.observed.refused(request, path, 503, requestId);
  }

  private isAnyFull(): boolean {
    for (const limiter of this.limiters) if (limiter.isFull) return true;
    return false;
  }
}

/**
 * Has the parser drop the body of a request. Node would pass it through a stream that nobody reads, which takes a sixth of
 * a refusal. It does this itself for requests without a body (`optimizeEmptyRequests`), but offers no other way to ask for
 * it; a version of Node without this method only takes longer. Not for chunked bodies: the parser would add their trailers
 * to the headers of the next request.
 */
const dropBody = (request: IncomingMessage & { _dumpAndCloseReadable?: () => void }): void => {
  if (request.headers['transfer-encoding'] === undefined) request._dumpAndCloseReadable?.();
};
