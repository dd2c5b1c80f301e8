import { STATUS_CODES, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Logger, Module, Optional, type DynamicModule, type LoggerService, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import type {
  FastifyError,
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  RouteOptions,
  onSendHookHandler,
} from 'fastify';
import { Admission, AdmissionModule } from '#admission';
import { CleaveError, limits } from '#contracts';
import { Authenticator, callerHeader } from '#security';
import { Metrics, RequestLog, Traces, requestIdOf, withWork } from '#telemetry';
import { limitRoutes } from './admission.js';
import { auditRoutes } from './audit.js';
import { hasBody, readJsonBodies } from './body.js';
import { Browsers, type BrowserOptions } from './browsers.js';
import {
  Connections,
  answerOn,
  connectionLimits,
  fullHeader,
  lookMs,
  type ConnectionLimits,
  type GivenConnectionLimits,
} from './connections.js';
import { EarlyRefusals } from './early-refusals.js';
import { JsonText, encodeReply, eventStream, type EndpointConfig } from './endpoint.js';
import { guardRoutes } from './guard.js';
import { ObservedRequests } from './observed-requests.js';
import {
  ProblemFilter,
  ProblemsModule,
  problemOf,
  problemOfError,
  problemType,
  refusalOfUnrouted,
  sendProblem,
  type Problem,
} from './problems.js';
import { refuseUnreadQueries } from './unread-queries.js';

export interface RestAppOptions extends BrowserOptions {
  logger?: LoggerService;
  /** Who finds out who asks; everybody may do everything when left out. */
  authenticator?: Authenticator;
  /** The largest body that is read, in bytes. */
  bodyLimitBytes?: number;
  /**
   * How long a closing app, though it is not ready any more, goes on taking connections while anybody is connected, in
   * milliseconds. It answers what still comes, and says each time that this is the last answer on the connection. A caller
   * that keeps unused connections for less than this never has a request meet a connection that is being closed.
   */
  drainDelayMs?: number;
  /** How long a closing app waits for requests in flight before it cuts their connections, in milliseconds. */
  drainTimeoutMs?: number;
  requestLog?: RequestLog;
  connections?: GivenConnectionLimits;
}

const sweepIntervalMs = 250;
const unusedCheckMs = 25;
/** Who balances requests over connections of their own, and looks twice a second who is ready, has seen by then that this one stops. */
const quietMs = 600;
const jsonType = 'application/json; charset=utf-8';

@Module({})
class RestModule {
  constructor(
    @Optional() @Inject(Metrics) readonly metrics?: Metrics,
    @Optional() @Inject(Traces) readonly traces?: Traces,
  ) {}
}

/**
 * A Nest app on Fastify that reads JSON, answers errors as problem documents and finishes what is in flight when it is
 * closed. Not yet listening: mount documents, then `listen`.
 *
 * @throws whatever keeps the root module from starting
 */
export const createRestApp = async (
  rootModule: Type | DynamicModule,
  options: RestAppOptions = {},
): Promise<NestFastifyApplication> => {
  const { logger, bodyLimitBytes = limits.bodyBytes, authenticator = new Authenticator() } = options;
  const { drainDelayMs = 0, drainTimeoutMs = 20_000, requestLog = new RequestLog() } = options;
  const observed = new ObservedRequests(requestLog);
  const connections = connectionLimits(options.connections);
  const patienceMs = drainDelayMs + drainTimeoutMs;
  const { isOpen } = authenticator;
  const adapter = new RestAdapter(
    { bodyLimitBytes, patienceMs, connections, browsers: new Browsers(options), isOpen },
    observed,
  );
  const app = await NestFactory.create<NestFastifyApplication>(
    { module: RestModule, imports: [rootModule, ProblemsModule, AdmissionModule] },
    adapter,
    { bodyParser: false, abortOnError: false, ...(logger && { logger }) },
  );
  const fastify: FastifyInstance = app.getHttpAdapter().getInstance();
  const { metrics, traces } = app.get(RestModule);
  observed.reportTo(metrics, traces);
  readJsonBodies(fastify);
  // Routes are added when the app is initialised. These hooks run in order: a request is authenticated before it is admitted,
  // and what is not admitted is not audited.
  guardRoutes(fastify, authenticator);
  limitRoutes(fastify, app.get(Admission), adapter.earlyRefusals);
  auditRoutes(fastify, authenticator);
  refuseUnreadQueries(fastify);
  // After the hooks of modules, which have been made by now: whoever tells that the app closes does so before the delay.
  if (drainDelayMs > 0) fastify.addHook('preClose', () => adapter.unused(drainDelayMs));
  return app.useGlobalFilters(new ProblemFilter());
};

/** What keeps a request from its handler, whatever the handler is. */
const refusalOf = (request: FastifyRequest, reply: FastifyReply): CleaveError | undefined => {
  const { headers, httpVersion, url = '' } = request.raw;
  if (headers.host === undefined && httpVersion === '1.1') return withoutHost();
  const ofFields = refusalOfFields(request.raw);
  if (ofFields || distrusted.has(request.raw.socket)) {
    // Others may have understood it in another way, and with it what comes behind it.
    distrusted.add(request.raw.socket);
    reply.header('connection', 'close');
    return (
      ofFields ??
      new CleaveError(
        'invalid-request',
        'An earlier request on this connection was refused, so this one was not processed. Send it again on a new connection.',
      )
    );
  }
  if (!isQueryDecodable(url)) return badQuery();
  if (request.is404 || !hasPath(url)) return refusalOfUnrouted(request);
  if (headers['content-encoding'] === undefined) return undefined;
  const coding = headers['content-encoding'].trim() || 'identity';
  if (coding.toLowerCase() === 'identity' || !hasBody(request)) return undefined;
  reply.header('accept-encoding', 'identity');
  return new CleaveError('unsupported-media-type', `A body must be sent without a Content-Encoding, not as ${coding}.`);
};

const allTaken =
  'The maximum number of connections is reached. The request has had no effect; repeat it after Retry-After, on another connection.';

const refusalOfFull = ({ routeOptions: { config } }: FastifyRequest): CleaveError | undefined =>
  (config as Partial<EndpointConfig>).isAlwaysAdmitted ? undefined : new CleaveError('unavailable', allTaken);

/** Connections on which nothing is carried out any more. */
const distrusted = new WeakSet<Socket>();

/** Fields that others may understand in another way than we do, when they are sent so. */
const refusalOfFields = ({ rawHeaders, headers }: IncomingMessage): CleaveError | undefined => {
  if (rawHeaders.length > 2 * limits.headers)
    return new CleaveError('headers-too-large', `A request has at most ${limits.headers} header fields; send fewer.`);
  const repeated = sentOnce.find((name) => headers[name] !== undefined && countOf(name, rawHeaders) > 1);
  if (repeated !== undefined)
    return new CleaveError('invalid-request', `The header ${repeated} must be sent only once.`);
  const { connection } = headers;
  if (connection === undefined || /^(?:close|keep-alive)$/i.test(connection)) return undefined;
  const named = connection.split(',').find((name) => endToEnd.has(name.trim().toLowerCase()));
  if (named === undefined) return undefined;
  const detail = `The header Connection must not name ${named.trim()}, which is an end-to-end header; remove it there.`;
  return new CleaveError('invalid-request', detail);
};

/** Whoever passes a request on and whoever answers it may each take another one. */
const sentOnce = ['host', 'authorization'] as const;

const countOf = (name: string, rawHeaders: readonly string[]): number => {
  let count = 0;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const field = rawHeaders[at]!;
    if (field.length === name.length && field.toLowerCase() === name) count += 1;
  }
  return count;
};

/** What would be lost on its way where `Connection` names it (RFC 9110, 7.6.1), and with it what was meant. */
const endToEnd = new Set([
  ...['host', 'authorization', 'content-type', 'content-length', 'content-encoding', 'idempotency-key'],
  ...['if-match', 'if-none-match', 'last-event-id', 'origin', 'stripe-signature', 'cleave-caller'],
  ...['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'],
]);

/** The router takes the first character of `*things` for a slash. */
const hasPath = (target: string): boolean => target.startsWith('/') || absoluteTarget.test(target);

const absolutePart = /^https?:\/\/[^/?]+(?=\/)/i;
const absoluteTarget = /^https?:\/\/[^/?]+(?:\/|\?[^/]*$|$)/i;

const withoutFragment = (url: string): string => {
  const at = url.indexOf('#');
  return at < 0 ? url : url.slice(0, at);
};

const withoutHost = (): CleaveError =>
  new CleaveError('invalid-request', 'An HTTP/1.1 request must have a header Host; send the name of this server.');

/** The router decodes the path and refuses what it cannot decode, but passes such a query on as it is. */
const isQueryDecodable = (url: string): boolean => {
  const start = url.indexOf('?');
  if (start < 0 || !url.includes('%', start)) return true;
  try {
    decodeURIComponent(url.slice(start));
    return true;
  } catch {
    return false;
  }
};

const badQuery = (): CleaveError =>
  new CleaveError(
    'invalid-request',
    'The query has a percent sign that does not begin an encoded UTF-8 character; encode it as %25.',
  );

interface AdapterOptions {
  bodyLimitBytes: number;
  patienceMs: number;
  connections: ConnectionLimits;
  browsers: Browsers;
  /** Whether callers are not authenticated. */
  isOpen: boolean;
}

const notHooked = (): never => {
  throw new Error('RestAdapter has no hook for this; add one to Fastify instead.');
};

/** Nest's adapter, with our answers to what fails before a handler is found, and with a drain before the shutdown. */
class RestAdapter extends FastifyAdapter {
  readonly earlyRefusals: EarlyRefusals;
  private draining = false;
  private readonly connections: Connections;
  private readonly patienceMs: number;

  private readonly browsers: Browsers;
  private readonly isOpen: boolean;

  constructor(
    { bodyLimitBytes, patienceMs, connections, browsers, isOpen }: AdapterOptions,
    observed: ObservedRequests,
  ) {
    const { headersMs, requestMs, keepAliveMs } = connections;
    super({
      bodyLimit: bodyLimitBytes,
      requestTimeout: requestMs,
      keepAliveTimeout: keepAliveMs,
      http: {
        headersTimeout: Math.min(headersMs, requestMs),
        connectionsCheckingInterval: lookMs,
        maxHeaderSize: limits.headerBytes,
        // Node would answer without a word; the hook of the app says what is missing.
        requireHostHeader: false,
      },
      // The path, of an absolute target as well, and no fragment is what everybody goes by, whoever passes it on as well.
      rewriteUrl: ({ url = '/' }) => withoutFragment(url.startsWith('/') ? url : url.replace(absolutePart, '')),
      routerOptions: { maxParamLength: limits.parameterLength },
      // A request on a connection that was kept alive is still answered, and told that it was the last one.
      return503OnClosing: false,
      genReqId: ({ headers }: IncomingMessage) => requestIdOf(headers['x-request-id']),
      frameworkErrors: (error: FastifyError, request: FastifyRequest, reply: FastifyReply) => {
        this.tellOfConnection(request, reply);
        if (!browsers.tell(request, reply)) sendProblem(reply, problemOfError(error));
      },
      clientErrorHandler: (error, socket) => answerUnreadable(error, socket, browsers),
    });
    this.patienceMs = patienceMs;
    this.browsers = browsers;
    this.isOpen = isOpen;
    super.setInstance(Object.getPrototypeOf(this.instance));
    this.instance.addHook('onRequest', (request, reply, done) => {
      const isFull = this.tellOfConnection(request, reply);
      if (browsers.tell(request, reply)) return;
      const refusal = refusalOf(request, reply) ?? (isFull ? refusalOfFull(request) : undefined);
      // Fastify sees to it that what follows the body is still part of it.
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
    this.earlyRefusals = new EarlyRefusals(browsers.headers, observed);
    this.refuseEarly(server);
    this.connections = new Connections(server, connections, refusalOfUnheard(browsers));
    server.on('checkExpectation', (request: IncomingMessage, response: ServerResponse) =>
      answerExpectation(request, response, browsers),
    );
  }

  /** Lets Fastify have only the requests that need not, or cannot, be refused without it. */
  private refuseEarly(server: Server): void {
    const handlers = server.listeners('request') as RequestListener[];
    server.removeAllListeners('request');
    server.on('request', (request, response) => {
      const full = this.earlyRefusals.fullFor(request);
      if (full && this.isOrdinary(request)) this.earlyRefusals.refuse(request, response, full.limiter, full.path);
      else for (const handle of handlers) handle.call(server, request, response);
    });
  }

  /** Whether the answer needs nothing that depends on the caller, the page that asks, or the state of the connection. */
  private isOrdinary(request: IncomingMessage): boolean {
    const { headers, socket } = request;
    if (this.draining || this.connections.isSpare(socket) || distrusted.has(socket)) return false;
    // A request without credentials gets 401, and must not make admitted callers wait longer.
    const hasCredentials = headers.authorization !== undefined || headers[callerHeader] !== undefined;
    if (!hasCredentials && !this.isOpen) return false;
    const isForPages = this.browsers.mayRead(headers.origin);
    return headers.host !== undefined && !isForPages && refusalOfFields(request) === undefined;
  }

  /** Names the request, and says whether it was the last on its connection. @returns whether that is beyond the limit */
  private tellOfConnection({ id, raw }: FastifyRequest, reply: FastifyReply): boolean {
    const isFull = this.connections.isSpare(raw.socket);
    reply.header('x-request-id', id);
    if (this.draining || isFull) reply.header('connection', 'close');
    if (isFull) reply.header(fullHeader, 'connections');
    return isFull;
  }

  /**
   * Called before anything else of ours. Nest then adds a hook to each request, and one after each answer, for everything
   * that could be set up later: as long as none of it is used, they cost a tenth of the request and do nothing.
   */
  override setInstance(instance: unknown): void {
    super.setInstance(Object.create(instance as object, { addHook: { value: () => instance } }));
  }

  override enableCors = notHooked;
  override registerSecurityHook = notHooked;
  override setOnRequestHook = notHooked;
  override setOnResponseHook = notHooked;

  override reply(reply: FastifyReply, value: unknown, status?: number) {
    // Of a text there is nothing to find out.
    if (value instanceof JsonText) return reply.type(jsonType).send(value.text);
    return super.reply(reply, encodeReply(value, reply), status);
  }

  /**
   * Nest destroys modules before it stops listening. Here requests in flight are finished first, while all they need
   * is still there.
   */
  override async beforeClose(): Promise<void> {
    super.beforeClose();
    this.draining = true;
    const { server } = this.instance;
    // Fastify tells only requests that come later that their connection ends.
    for (const answer of [...this.connections].map(answerOn))
      if (answer && !answer.headersSent) answer.setHeader('connection', 'close');
    const sweep = setInterval(() => {
      if (server.listening) return;
      server.closeIdleConnections();
      // Who follows events goes on at another instance, from the last one received.
      for (const stream of this.connections.streams) stream.destroy();
      // Node waits for connections that were opened in advance as if a request were under way.
      for (const socket of this.connections) if (answerOn(socket) === undefined) socket.destroy();
    }, sweepIntervalMs);
    const cut = setTimeout(() => {
      new Logger('Rest').warn(`Requests still run after ${this.patienceMs} ms; their connections are cut.`);
      server.closeAllConnections();
    }, this.patienceMs);
    await this.instance.close().finally(() => {
      clearInterval(sweep);
      clearTimeout(cut);
    });
  }

  /**
   * Waits until nobody is connected, nor has come lately, at most `timeoutMs`. Those who follow events do not count: they are sent away
   * when all others are gone.
   */
  async unused(timeoutMs: number): Promise<void> {
    const giveUpAt = performance.now() + timeoutMs;
    const { connections } = this;
    const isUsed = (now: number): boolean =>
      connections.size > connections.streams.size || now - connections.openedAt < quietMs;
    for (let now = performance.now(); isUsed(now) && now < giveUpAt; now = performance.now())
      await sleep(unusedCheckMs);
  }
}

/** Answers a header `Expect` other than `100-continue`, which never becomes a request of Fastify's. */
const answerExpectation = ({ headers }: IncomingMessage, response: ServerResponse, browsers: Browsers): void => {
  const detail = `The only supported expectation is 100-continue, not ${headers.expect}; leave the header Expect out.`;
  const problem = problemOf('expectation-failed', detail);
  const body = JSON.stringify(problem);
  response.writeHead(problem.status, {
    'content-type': problemType,
    'content-length': Buffer.byteLength(body),
    ...browsers.headers,
    connection: 'close',
  });
  response.end(body);
};

/** Fastify says of what HEAD would leave out that it has no bytes: that is not how long the value is that is unchanged (RFC 9110, 8.6). */
const leaveOutLength: onSendHookHandler = (_, reply, payload, done) => {
  if (reply.statusCode === 304) reply.removeHeader('content-length');
  done(null, payload);
};

/** Of a route that does not say what it answers, anything may come. */
const mayStream = ({ config }: RouteOptions): boolean => {
  const { replies } = (config ?? {}) as Partial<EndpointConfig>;
  return !replies || Object.values(replies).some(({ streamedAs }) => streamedAs !== undefined);
};

/** Answers what node's HTTP parser refuses, which never becomes a request. */
const answerUnreadable = (error: NodeJS.ErrnoException, socket: Socket, browsers: Browsers): void => {
  // As node does: never write into an answer that has begun.
  if (error.code !== 'ECONNRESET' && socket.writable && !answerOn(socket)?.headersSent)
    socket.write(unreadableAnswer(error, browsers));
  socket.destroy();
};

const unreadableAnswer = ({ code }: NodeJS.ErrnoException, browsers: Browsers): string => {
  const problem = problemOfUnreadable(code);
  return rawAnswer(problem.status, { 'content-type': problemType, ...browsers.headers }, JSON.stringify(problem));
};

/** Without a document: it may have been asked for the head alone. */
const refusalOfUnheard = (browsers: Browsers): string =>
  rawAnswer(503, { [fullHeader]: 'connections', 'retry-after': '1', ...browsers.headers });

/** An answer as it goes over the wire, the last on its connection. */
const rawAnswer = (status: number, headers: Record<string, string>, body = ''): string =>
  [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    ...Object.entries(headers).map((field) => field.join(': ')),
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    '',
    body,
  ].join('\r\n');

const problemOfUnreadable = (code: string | undefined): Problem => {
  if (code === 'HPE_HEADER_OVERFLOW') {
    return problemOf('headers-too-large', 'The header fields are too large; send fewer or shorter ones.');
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return problemOf('request-timeout', 'The request did not arrive in time; send it again, without pauses.');
  }
  return problemOf('invalid-request', 'The request is not valid HTTP/1.1.');
};
