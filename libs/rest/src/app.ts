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
  /** Authenticates callers. If left out, every caller may do everything. */
  authenticator?: Authenticator;
  /** The largest request body accepted, in bytes. */
  bodyLimitBytes?: number;
  /**
   * How long a closing app keeps accepting connections while any client is connected, in milliseconds, although it already
   * reports not ready. Each response in that time carries `Connection: close`. A client that keeps idle connections for
   * less than this time never sends a request on a connection that is being closed.
   */
  drainDelayMs?: number;
  /** How long a closing app waits for requests in flight before it cuts their connections, in milliseconds. */
  drainTimeoutMs?: number;
  requestLog?: RequestLog;
  connections?: GivenConnectionLimits;
}

const sweepIntervalMs = 250;
const unusedCheckMs = 25;
/** A load balancer that probes readiness twice a second over separate connections has noticed the shutdown by then. */
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
 * A Nest app on Fastify that reads JSON, answers errors as problem documents and finishes requests in flight when it is
 * closed. It does not listen yet: mount the documents, then call `listen`.
 *
 * @throws any error that keeps the root module from starting
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
  // This hook runs after those of the modules, which are already registered, so modules announce the shutdown before the
  // delay starts.
  if (drainDelayMs > 0) fastify.addHook('preClose', () => adapter.unused(drainDelayMs));
  return app.useGlobalFilters(new ProblemFilter());
};

/** Refusals that apply to every request before its handler runs. */
const refusalOf = (request: FastifyRequest, reply: FastifyReply): CleaveError | undefined => {
  const { headers, httpVersion, url = '' } = request.raw;
  if (headers.host === undefined && httpVersion === '1.1') return withoutHost();
  const ofFields = refusalOfFields(request.raw);
  if (ofFields || distrusted.has(request.raw.socket)) {
    // A proxy may have parsed this request differently (request smuggling), so later requests on the connection are suspect
    // too.
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

/** Connections on which no further request is carried out. */
const distrusted = new WeakSet<Socket>();

/** Refuses header fields that a proxy in front may interpret differently. */
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

/** If one of these is repeated, a proxy and this server may each use a different value. */
const sentOnce = ['host', 'authorization'] as const;

const countOf = (name: string, rawHeaders: readonly string[]): number => {
  let count = 0;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const field = rawHeaders[at]!;
    if (field.length === name.length && field.toLowerCase() === name) count += 1;
  }
  return count;
};

/**
 * A proxy removes every field that `Connection` names (RFC 9110, 7.6.1). Removing one of these would change the request's
 * meaning.
 */
const endToEnd = new Set([
  ...['host', 'authorization', 'content-type', 'content-length', 'content-encoding', 'idempotency-key'],
  ...['if-match', 'if-none-match', 'last-event-id', 'origin', 'stripe-signature', 'cleave-caller'],
  ...['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'],
]);

/** The router would treat the first character of `*things` as a slash. */
const hasPath = (target: string): boolean => target.startsWith('/') || absoluteTarget.test(target);

const absolutePart = /^https?:\/\/[^/?]+(?=\/)/i;
const absoluteTarget = /^https?:\/\/[^/?]+(?:\/|\?[^/]*$|$)/i;

const withoutFragment = (url: string): string => {
  const at = url.indexOf('#');
  return at < 0 ? url : url.slice(0, at);
};

const withoutHost = (): CleaveError =>
  new CleaveError('invalid-request', 'An HTTP/1.1 request must have a header Host; send the name of this server.');

/** The router decodes the path and refuses one that it cannot decode, but passes an undecodable query on unchanged. */
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
  /** Whether authentication is turned off. */
  isOpen: boolean;
}

const notHooked = (): never => {
  throw new Error('RestAdapter has no hook for this; add one to Fastify instead.');
};

/** Nest's Fastify adapter, with problem documents for failures before a handler is found, and a drain before shutdown. */
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
        // Node would answer 400 without a body; the onRequest hook below explains what is missing.
        requireHostHeader: false,
      },
      // Route by the path alone, without the authority of an absolute target and without a fragment, as proxies do.
      rewriteUrl: ({ url = '/' }) => withoutFragment(url.startsWith('/') ? url : url.replace(absolutePart, '')),
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
    this.patienceMs = patienceMs;
    this.browsers = browsers;
    this.isOpen = isOpen;
    super.setInstance(Object.getPrototypeOf(this.instance));
    this.instance.addHook('onRequest', (request, reply, done) => {
      const isFull = this.tellOfConnection(request, reply);
      if (browsers.tell(request, reply)) return;
      const refusal = refusalOf(request, reply) ?? (isFull ? refusalOfFull(request) : undefined);
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
    this.earlyRefusals = new EarlyRefusals(browsers.headers, observed);
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
    const sweep = setInterval(() => {
      if (server.listening) return;
      server.closeIdleConnections();
      // A client that follows events resumes at another instance, from the last event it received.
      for (const stream of this.connections.streams) stream.destroy();
      // Node waits for preconnected sockets that have not sent a request as if one were in flight.
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
  }
}

/** Answers an `Expect` header other than `100-continue`; node never passes such a request to Fastify. */
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
  const { replies } = (config ?? {}) as Partial<EndpointConfig>;
  return !replies || Object.values(replies).some(({ streamedAs }) => streamedAs !== undefined);
};

/** Answers requests that node's HTTP parser rejects and that therefore never reach Fastify. */
const answerUnreadable = (error: NodeJS.ErrnoException, socket: Socket, browsers: Browsers): void => {
  // As node does: never write into a response that has begun.
  if (error.code !== 'ECONNRESET' && socket.writable && !answerOn(socket)?.headersSent)
    socket.write(unreadableAnswer(error, browsers));
  socket.destroy();
};

const unreadableAnswer = ({ code }: NodeJS.ErrnoException, browsers: Browsers): string => {
  const problem = problemOfUnreadable(code);
  return rawAnswer(problem.status, { 'content-type': problemType, ...browsers.headers }, JSON.stringify(problem));
};

/** Without a body, because the request that was not read may be a HEAD. */
const refusalOfUnheard = (browsers: Browsers): string =>
  rawAnswer(503, { [fullHeader]: 'connections', 'retry-after': '1', ...browsers.headers });

/** A raw HTTP/1.1 response, the last on its connection. */
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
