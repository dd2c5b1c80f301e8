import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import type { FastifyError, FastifyReply, FastifyRequest, RouteOptions, onSendHookHandler } from 'fastify';
import { limits } from '#contracts';
import { callerHeader } from '#security';
import { requestIdOf, withWork } from '#telemetry';
import type { BrowserHeaders } from './browser-headers.js';
import { Connections, answerOn, fullHeader, lookMs, type ConnectionLimits } from './connections.js';
import { LoadShedder } from './load-shedder.js';
import { JsonText, encodeReply, eventStream } from './endpoint.js';
import type { ObservedRequests } from './observed-requests.js';
import { problemOfError, sendProblem } from './problems.js';
import { answerExpectation, answerUnreadable, refusalOfUnheard } from './raw-answers.js';
import { distrusted, originFormOf, refusalOfFields, refusalOfFull, refusalOfRequest } from './request-checks.js';

const unusedCheckMs = 25;
/** A load balancer that probes readiness twice a second over separate connections has noticed the shutdown by then. */
const quietMs = 600;
const jsonType = 'application/json; charset=utf-8';

interface AdapterOptions {
  bodyLimitBytes: number;
  patienceMs: number;
  connections: ConnectionLimits;
  browsers: BrowserHeaders;
  /** Whether authentication is turned off. */
  isOpen: boolean;
}

const notHooked = (): never => {
  throw new Error('RestAdapter has no hook for this; add one to Fastify instead.');
};

/** Nest's Fastify adapter, with problem documents for failures before a handler is found, and a drain before shutdown. */
export class RestAdapter extends FastifyAdapter {
  readonly loadShedder: LoadShedder;
  private draining = false;
  private readonly connections: Connections;

  constructor(
    private readonly settings: AdapterOptions,
    observed: ObservedRequests,
  ) {
    const { bodyLimitBytes, connections, browsers } = settings;
    const { headersMs, requestMs, keepAliveMs } = connections;
    super({
      bodyLimit: bodyLimitBytes,
      requestTimeout: requestMs,
      keepAliveTimeout: keepAliveMs,
      http: {
        headersTimeout: Math.min(headersMs, requestMs),
        connectionsCheckingInterval: lookMs,
        maxHeaderSize: limits.headerBytes,
        // Node would answer 400 without a body; the onRequest hook below explains what is missing.
        requireHostHeader: false,
        // Most requests have no body, and to end the stream of one costs as much as to route the request.
        optimizeEmptyRequests: true,
      },
      rewriteUrl: ({ url = '/' }) => originFormOf(url),
      routerOptions: { maxParamLength: limits.parameterLength },
      // Requests on connections kept alive are still served during the drain; the response carries `Connection: close`.
      return503OnClosing: false,
      genReqId: ({ headers }: IncomingMessage) => requestIdOf(headers['x-request-id']),
      frameworkErrors: (error: FastifyError, request: FastifyRequest, reply: FastifyReply) => {
        this.tellOfConnection(request, reply);
        if (!browsers.tell(request, reply)) sendProblem(reply, problemOfError(error));
      },
      clientErrorHandler: (error, socket) => answerUnreadable(error, socket, browsers),
    });
    super.setInstance(Object.getPrototypeOf(this.instance));
    this.instance.addHook('onRequest', (request, reply, done) => {
      const isFull = this.tellOfConnection(request, reply);
      if (browsers.tell(request, reply)) return;
      const refusal = refusalOfRequest(request, reply) ?? (isFull ? refusalOfFull(request) : undefined);
      // Fastify preserves the async context, so the code that runs after the body was read still belongs to this work.
      withWork(observed.begin(request, reply), () => done(refusal));
    });
    this.instance.addHook('onRoute', (route) => {
      if (route.method === 'HEAD') route.onSend = [...[route.onSend ?? []].flat(), leaveOutLength];
      if (!mayStream(route)) return;
      const noteStream: onSendHookHandler = (_, reply, payload, done) => {
        if (String(reply.getHeader('content-type')).startsWith(eventStream)) this.connections.noteStream(reply.raw);
        done(null, payload);
      };
      route.onSend = [noteStream, ...[route.onSend ?? []].flat()];
    });
    const { server } = this.instance;
    this.loadShedder = new LoadShedder(browsers.headers, observed);
    this.refuseEarly(server);
    this.connections = new Connections(server, connections, refusalOfUnheard(browsers));
    server.on('checkExpectation', (request: IncomingMessage, response: ServerResponse) =>
      answerExpectation(request, response, browsers),
    );
  }

  /** Passes to Fastify only those requests that need not, or cannot, be refused before it. */
  private refuseEarly(server: Server): void {
    const handlers = server.listeners('request') as RequestListener[];
    server.removeAllListeners('request');
    server.on('request', (request, response) => {
      // The connection is being closed, and its client may have been told that a request on it has not begun.
      if (!request.socket.writable) return void request.resume();
      const full = this.loadShedder.fullFor(request);
      if (full && this.isOrdinary(request)) this.loadShedder.refuse(request, response, full.limiter, full.path);
      else for (const handle of handlers) handle.call(server, request, response);
    });
  }

  /** Whether the answer needs nothing that depends on the caller, the page that asks, or the state of the connection. */
  private isOrdinary(request: IncomingMessage): boolean {
    const { headers, socket } = request;
    if (this.draining || this.connections.isSpare(socket) || distrusted.has(socket)) return false;
    // A request without credentials gets 401, and must not make admitted callers wait longer.
    const hasCredentials = headers.authorization !== undefined || headers[callerHeader] !== undefined;
    if (!hasCredentials && !this.settings.isOpen) return false;
    const isForPages = this.settings.browsers.mayRead(headers.origin);
    return headers.host !== undefined && !isForPages && refusalOfFields(request) === undefined;
  }

  /**
   * Sets the request id, and `Connection: close` if this is the last response on the connection.
   *
   * @returns whether the connection is beyond the limit
   */
  private tellOfConnection({ id, raw }: FastifyRequest, reply: FastifyReply): boolean {
    const isFull = this.connections.isSpare(raw.socket);
    reply.header('x-request-id', id);
    if (this.draining || isFull) reply.header('connection', 'close');
    if (isFull) reply.header(fullHeader, 'connections');
    return isFull;
  }

  /**
   * The constructor of `FastifyAdapter` calls this before our own code runs. Nest then adds a hook per request and one per
   * response for features that may be configured later. Unused, they still cost a tenth of the request, so `addHook` does
   * nothing for Nest.
   */
  override setInstance(instance: unknown): void {
    super.setInstance(Object.create(instance as object, { addHook: { value: () => instance } }));
  }

  override enableCors = notHooked;
  override registerSecurityHook = notHooked;
  override setOnRequestHook = notHooked;
  override setOnResponseHook = notHooked;

  override reply(reply: FastifyReply, value: unknown, status?: number) {
    // The text is already encoded.
    if (value instanceof JsonText) return reply.type(jsonType).send(value.text);
    return super.reply(reply, encodeReply(value, reply), status);
  }

  /**
   * Nest destroys modules before it stops listening. This override finishes requests in flight first, while the modules
   * they need still work.
   */
  override async beforeClose(): Promise<void> {
    super.beforeClose();
    this.draining = true;
    const { server } = this.instance;
    // Fastify sets `Connection: close` only on requests that arrive after closing began.
    for (const answer of [...this.connections].map(answerOn))
      if (answer && !answer.headersSent) answer.setHeader('connection', 'close');
    const cut = setTimeout(() => {
      new Logger('Rest').warn(`Requests still run after ${this.settings.patienceMs} ms; their connections are cut.`);
      server.closeAllConnections();
    }, this.settings.patienceMs);
    await this.instance.close().finally(() => clearTimeout(cut));
  }

  /**
   * Waits until no client is connected and none has connected within `quietMs`, for at most `timeoutMs`. Event streams do
   * not count; they are closed after all other connections are gone.
   */
  async unused(timeoutMs: number): Promise<void> {
    const giveUpAt = performance.now() + timeoutMs;
    const { connections } = this;
    const isUsed = (now: number): boolean =>
      connections.size > connections.streams.size || now - connections.openedAt < quietMs;
    for (let now = performance.now(); isUsed(now) && now < giveUpAt; now = performance.now())
      await sleep(unusedCheckMs);
    await connections.acceptQueued();
  }
}

/**
 * For a 304 to HEAD, Fastify sets the length of the empty payload, but `Content-Length` must be that of the unchanged
 * representation (RFC 9110, 8.6).
 */
const leaveOutLength: onSendHookHandler = (_, reply, payload, done) => {
  if (reply.statusCode === 304) reply.removeHeader('content-length');
  done(null, payload);
};

/** A route that does not declare its replies may answer with a stream. */
const mayStream = ({ config }: RouteOptions): boolean => {
  const { replies } = config ?? {};
  return !replies || Object.values(replies).some(({ streamedAs }) => streamedAs !== undefined);
};
