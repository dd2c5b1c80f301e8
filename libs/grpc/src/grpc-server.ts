import { constants, type Http2Server, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import {
  Server,
  ServerCredentials,
  ServerInterceptingCall,
  status as Code,
  type Metadata,
  type ServerInterceptor,
  type ServerUnaryCall,
  type ServerWritableStream,
} from '@grpc/grpc-js';
import type { PackageDefinition, ServiceDefinition } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import { ServerGrpc, type MessageHandler } from '@nestjs/microservices';
import { HealthImplementation } from 'grpc-health-check';
import type { Histogram } from '@opentelemetry/api';
import {
  EMPTY,
  NEVER,
  Subject,
  catchError,
  exhaustMap,
  finalize,
  ignoreElements,
  interval,
  merge,
  mergeMap,
  takeUntil,
  tap,
  throwError,
  type Observable,
} from 'rxjs';
import type { Admission, Limiter } from '#admission';
import { CleaveError, limits, type Scope } from '#contracts';
import { throttled, within } from '#periodic';
import { allow, refuseWhenEnded, tooMany, type Authenticator, type Caller } from '#security';
import {
  answerSeconds,
  failed,
  requestIdOf,
  traceparentFrom,
  traceparentOf,
  withWork,
  type Metrics,
  type RequestLog,
  type Traces,
  type Work,
} from '#telemetry';
import { callers } from './called-by.js';
import { definitionOf, filesIn, type GrpcService } from './definition.js';
import { healthDescriptors } from './generated/health-descriptors.js';
import { statusOf, typeOfRefusal } from './status.js';

/** How often the callers of open streams are authorised again, in milliseconds. */
const askAgainMs = 1_000;

/** How long a shutdown waits for accepted calls. */
const drainMs = 10_000;

const saidEveryMs = 10_000;
/** The longest time that a timer of Node can wait, in milliseconds. */
const longestTimerMs = 2 ** 31 - 1;
/**
 * The largest header list of a call. Node has no limit until the client has acknowledged one, and HPACK repeats four
 * kilobytes in one byte: one connection without a key that sent 250 KB had 400 MB kept.
 */
const mostHeaderBytes = 16_384;
/**
 * How much a client may send on one connection in open calls of health and reflection, which anybody may call. What it sends
 * is kept while a stream is open, and reflection keeps an answer for each request, of some fifty times its size,
 * whether the client reads it or not.
 */
const mostOpenBytes = 16_384;
/**
 * The headers of each of these calls that do not count, because every client sends some 500 bytes of its own: a proxy may
 * bring the health checks of hundreds of clients on one connection.
 */
const ordinaryHeaderBytes = 1_024;
/** How often clients that do not read are looked for, in milliseconds. */
const lookMs = 500;

/** A private field of the server in grpc-js 1.14: the interval of keep-alive pings in milliseconds; 0 for none. */
const keepalive = 'keepaliveTimeMs';

const serverOptions = {
  'grpc.max_receive_message_length': limits.bodyBytes,
  'grpc.max_concurrent_streams': 1_000,
  // Detects callers that are gone without closing the connection, such as followers of events.
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
};

type Call = ServerUnaryCall<unknown, unknown> | ServerWritableStream<unknown, unknown>;

/** Limits that keep slow or numerous clients from using up resources that others need. */
export interface GrpcClientLimits {
  /** Further connections are closed at once. */
  maxConnections: number;
  /** How long a request may take to arrive, in milliseconds. */
  requestMs: number;
  /** How long a client may read nothing of an answer that waits for it, in milliseconds. */
  answerMs: number;
}

/**
 * Nest's gRPC server with health and reflection services, trace contexts and deadlines, proper errors for requests that
 * cannot be decoded, and a graceful shutdown.
 */
export class GrpcServer extends ServerGrpc {
  /** The full name of the service. */
  readonly serviceName: string;
  private readonly health = new HealthImplementation();
  /** Fails when the server closes. */
  private readonly closing = new Subject<never>();
  /** Ends calls of health and reflection, which have no end of their own. */
  private readonly endless = new Set<() => void>();
  private canServe: boolean | undefined;
  private drained: Promise<void> | undefined;

  private readonly duration: Histogram | undefined;

  /** The methods with response streams. */
  private readonly streams: ReadonlySet<string>;

  /**
   * @param at `host:port`
   * @param limits none if left out
   */
  constructor(
    private readonly at: string,
    private readonly service: GrpcService,
    private readonly admission: Admission,
    private readonly authenticator: Authenticator,
    private readonly requestLog: RequestLog,
    metrics?: Metrics,
    private readonly traces?: Traces,
    private readonly limits?: GrpcClientLimits,
  ) {
    const definition = definitionOf(service);
    super({ package: service.package, packageDefinition: definition });
    this.serviceName = `${service.package}.${service.name}`;
    this.duration = metrics?.meter('grpc').createHistogram('rpc.server.call.duration', {
      unit: 's',
      description:
        'Duration of answered calls; refused ones have an error_type. Streams count only if they are refused.',
      advice: { explicitBucketBoundaries: answerSeconds },
    });
    const methods = Object.entries(definition[this.serviceName] as ServiceDefinition);
    this.streams = new Set(methods.filter(([, { responseStream }]) => responseStream).map(([name]) => name));
    const unscoped = methods.find(([name]) => !Object.hasOwn(service.scopes, name));
    if (unscoped) throw new Error(`${this.serviceName}/${unscoped[0]} has no entry in the scopes of its service.`);
    this.tellHealth(false);
  }

  /** Sets the health status of the service and of the whole server, for clients that check it. */
  tellHealth(canServe: boolean): void {
    // Watchers are to be notified of changes only.
    if (canServe === this.canServe) return;
    this.canServe = canServe;
    for (const name of ['', this.serviceName]) this.health.setStatus(name, canServe ? 'SERVING' : 'NOT_SERVING');
  }

  override addHandler(pattern: unknown, handler: MessageHandler, isEvent?: boolean): void {
    const { rpc = '' } = pattern as { rpc?: string };
    const isStream = this.streams.has(rpc);
    const scope = this.scopeOf(rpc);
    // The same limits as over REST, because it is the same work. Streams take no capacity, so they do not count.
    const limiter = isStream ? undefined : this.admission.limiterOf(/^(?:Get|List)/.test(rpc) ? 'read' : 'write');
    const handle = handler as (request: unknown, metadata: Metadata, call: Call) => Promise<unknown>;
    const guarded = async (request: unknown, metadata: Metadata, call: Call): Promise<Observable<unknown>> => {
      const startedAt = performance.now();
      const refusal = request instanceof CleaveError ? request : (refusalWhenLate(call) ?? refusalWhenBusy(limiter));
      if (refusal) {
        this.answered(rpc, startedAt, this.workOf(metadata), refusal);
        return throwError(() => statusOf(refusal));
      }
      const { work, end } = this.begin(rpc, startedAt, metadata);
      const answer = withWork(work, () => handle(request, metadata, call));
      if (!limiter) {
        const refused = this.authenticator.isOpen ? NEVER : this.refusalOfFollower(metadata, scope);
        let isOpen = false;
        const told = tap({ next: () => (isOpen = true), error: (error) => isOpen || end(error) });
        return this.transformToObservable(await answer).pipe(told, takeUntil(merge(this.closing, refused)));
      }
      const entered = limiter.enter();
      try {
        return this.transformToObservable(await answer).pipe(
          tap({ error: end }),
          finalize(() => {
            end();
            limiter.leave(entered);
          }),
        );
      } catch (error) {
        end(error);
        limiter.leave(entered);
        throw error;
      }
    };
    super.addHandler(pattern, guarded as MessageHandler, isEvent);
  }

  /** Authenticates the caller and checks its rate limit and scope. */
  private async admitCaller(metadata: Metadata, scope: Scope): Promise<void> {
    const caller = await this.callerIn(metadata);
    callers.set(metadata, caller);
    const standing = await this.authenticator.standingOf(caller);
    // Also counts callers without the scope, as over REST, because they are answered too.
    if (standing?.isRefused) throw tooMany(standing);
    allow(caller, scope);
  }

  private async callerIn(metadata: Metadata): Promise<Caller> {
    const [authorization, ...others] = metadata.get('authorization').map(String);
    return this.authenticator.bearerOf(others.length > 0 ? '' : authorization);
  }

  /** @returns the context of the call, and a function that ends it once; a stream is recorded only if it is refused */
  private begin(rpc: string, startedAt: number, metadata: Metadata): { work: Work; end: (error?: unknown) => void } {
    const asked = this.workOf(metadata);
    if (this.streams.has(rpc)) return { work: asked, end: (error) => this.answered(rpc, startedAt, asked, error) };
    const attributes = { 'rpc.system.name': 'grpc', 'rpc.method': `${this.serviceName}/${rpc}` };
    const span = this.traces?.begin(attributes['rpc.method'], asked.traceparent, { kind: 'server', attributes });
    const traceparent = span ? traceparentFrom(span) : asked.traceparent;
    const work: Work = { ...asked, traceparent, traces: span && this.traces };
    let hasEnded = false;
    const end = (error?: unknown): void => {
      if (hasEnded) return;
      hasEnded = true;
      if (span && error !== undefined) failed(span, typeOfRefusal(error));
      span?.end();
      this.answered(rpc, startedAt, work, error);
    };
    return { work, end };
  }

  private workOf(metadata: Metadata): Work {
    const traceparent = traceparentOf(metadata.get('traceparent')[0]);
    return {
      traceparent,
      requestId: requestIdOf(metadata.get('x-request-id')[0]),
      tenant: callers.get(metadata)?.tenant,
    };
  }

  /** Records the duration of a call and writes it to the request log. */
  private answered(rpc: string, startedAt: number, work: Work, error: unknown): void {
    const ms = performance.now() - startedAt;
    const method = `${this.serviceName}/${rpc}`;
    const errorType = error === undefined ? undefined : typeOfRefusal(error);
    const attributes = {
      ...{ 'rpc.system.name': 'grpc', 'rpc.method': method },
      ...(errorType !== undefined && { 'error.type': errorType }),
    };
    this.duration?.record(ms / 1_000, attributes);
    this.requestLog.tell(ms, work, () => ({
      line: `${method} ${errorType ?? 'OK'}`,
      fields: { rpc: method, ...(errorType !== undefined && { error: errorType }) },
    }));
  }

  /** Fails once the follower of a stream is no longer authorised; not while that cannot be checked. */
  private refusalOfFollower(metadata: Metadata, scope: Scope): Observable<never> {
    const caller = callers.get(metadata)!;
    const again = interval(askAgainMs).pipe(
      exhaustMap(() => refusalIn(async () => allow(await this.callerIn(metadata), scope))),
      mergeMap((it) => (it && it.code !== 'unavailable' ? throwError(() => it) : EMPTY)),
    );
    // An expired credential also ends the stream while authorisation cannot be checked.
    const ended = interval(askAgainMs).pipe(
      tap(() => refuseWhenEnded(caller)),
      ignoreElements(),
    );
    return merge(again, ended).pipe(catchError((error: CleaveError) => throwError(() => statusOf(error))));
  }

  override async createClient(): Promise<Server> {
    const server = new Server({ ...serverOptions, interceptors: [this.admitEarly, this.noteEndless] });
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(this.at, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve())),
    );
    if (typeof server[keepalive] !== 'number') throw new Error(`grpc-js has no field ${keepalive} any more`);
    for (const listening of (server['http2Servers'] as Map<Http2Server, unknown>).keys()) this.guard(listening);
    forgetWatchedNames(this.health);
    this.health.addToServer(server);
    const files = [this.service.descriptors, healthDescriptors].flatMap(filesIn);
    const described = { files: { fileDescriptorProtos: files } } as unknown as PackageDefinition;
    new ReflectionService(described).addToServer(server);
    return server;
  }

  /** grpc-js has no options for this. */
  private guard(listening: Http2Server): void {
    const refused = new WeakSet<ServerHttp2Stream>();
    // Before grpc-js reads the headers.
    listening.prependListener('stream', (stream, headers) => {
      if (isBeyondTimers(headers['grpc-timeout'])) delete headers['grpc-timeout'];
      if (bytesOf(headers) > mostHeaderBytes) {
        refused.add(stream);
        // grpc-js would copy them, which takes much longer than to send them.
        for (const name of Object.keys(headers)) if (!/^:|^content-type$/.test(name)) delete headers[name];
      }
      // A refused call is not kept until its client has sent the message. Its status is in the headers; trailers are sent
      // after this event, and would be lost.
      stream.once('finish', () => {
        if (!stream.readableEnded && stream.sentHeaders?.['grpc-status'] !== undefined)
          stream.close(constants.NGHTTP2_NO_ERROR);
      });
    });
    listening.on('session', (session) => {
      const open = { bytes: 0 };
      // After grpc-js, which would fail with a stream that is closed.
      session.on('stream', (stream, headers) => {
        if (refused.has(stream)) stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
        else if (!headers[':path']?.startsWith(`/${this.serviceName}/`)) limitBytes(stream, bytesOf(headers), open);
      });
    });
    if (this.limits) this.limitClients(listening, this.limits);
  }

  private limitClients(listening: Http2Server, { maxConnections, requestMs, answerMs }: GrpcClientLimits): void {
    const sayFull = throttled(saidEveryMs);
    const warn = (): void =>
      this.logger.warn(`gRPC: all ${maxConnections} connections are in use (HTTP_MAX_CONNECTIONS); others are refused`);
    listening.maxConnections = maxConnections;
    listening.on('drop', () => sayFull(warn));
    const unread = new Map<ServerHttp2Stream, { since: number }>();
    listening.on('stream', (stream) => {
      const late = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), requestMs).unref();
      for (const end of ['end', 'close']) stream.once(end, () => clearTimeout(late));
      // grpc-js hands over a message only once the one before has been sent, so each of them shows that the client reads.
      const progress = { since: performance.now() };
      const write = stream.write.bind(stream) as (...given: unknown[]) => boolean;
      stream.write = (...given: unknown[]) => {
        progress.since = performance.now();
        return write(...given);
      };
      unread.set(stream, progress);
      stream.once('close', () => unread.delete(stream));
    });
    // Not the timeout of the stream, which every ping on its connection renews.
    const looking = setInterval(() => cutUnread(unread, answerMs), lookMs).unref();
    listening.once('close', () => clearInterval(looking));
  }

  /** Accepts no more connections, ends the calls without an end of their own, and answers what was accepted. */
  drain(): Promise<void> {
    this.drained ??= this.finish();
    return this.drained;
  }

  override async close(): Promise<void> {
    await this.drain();
    await super.close();
  }

  private async finish(): Promise<void> {
    this.tellHealth(false);
    this.closing.error(statusOf(stopping()));
    for (const end of this.endless) end();
    const server = this.grpcClient as Server | undefined;
    if (!server) return;
    // After GOAWAY, grpc-js takes its next keep-alive ping for failed and destroys the connection with the calls on it. It
    // reads this field before it pings; there is no option for it.
    Object.assign(server, { [keepalive]: 0 });
    const drained = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
    await within(drainMs, drained).catch(() => {
      this.logger.warn(`gRPC calls still run after ${drainMs} ms; their connections are cut.`);
    });
  }

  /**
   * Refuses callers before their message is read, as over REST: without a key, nobody can make the server keep messages that
   * never end.
   */
  private readonly admitEarly: ServerInterceptor = ({ path }, call) => {
    const [service, rpc] = path.slice(1).split('/') as [string, string];
    if (service !== this.serviceName) return new ServerInterceptingCall(call);
    const startedAt = performance.now();
    const admit = async (metadata: Metadata, go: (metadata: Metadata) => void): Promise<void> => {
      const refusal = await refusalIn(() => this.admitCaller(metadata, this.scopeOf(rpc)));
      if (!refusal) return go(metadata);
      this.answered(rpc, startedAt, this.workOf(metadata), refusal);
      const { code, details, metadata: about } = statusOf(refusal);
      call.sendStatus({ code, details, metadata: about });
    };
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (metadata, go) =>
            void admit(metadata, go).catch((error: unknown) => {
              this.logger.error(`${path} failed`, error instanceof Error ? error.stack : String(error));
              call.sendStatus({ code: Code.INTERNAL, details: 'The call failed on our side. It may be sent again.' });
            }),
        }),
    });
  };

  private scopeOf(rpc: string): Scope {
    // Handlers of other services are registered too; they are never called.
    return this.service.scopes[rpc] ?? 'operator';
  }

  private readonly noteEndless: ServerInterceptor = ({ path, responseStream }, call) => {
    if (!responseStream || path.startsWith(`/${this.serviceName}/`)) return new ServerInterceptingCall(call);
    const { code, details } = statusOf(stopping());
    let hasEnded = false;
    const end = (): void => {
      hasEnded = true;
      call.sendStatus({ code, details });
    };
    return new ServerInterceptingCall(call, {
      // Messages that are still queued would follow the status, which breaks the call.
      sendMessage: (message, next) => {
        if (!hasEnded) next(message);
      },
      start: (next) => {
        this.endless.add(end);
        next({
          onReceiveMetadata: (metadata, go) => go(metadata),
          onReceiveMessage: (message, go) => go(message),
          onReceiveHalfClose: (go) => go(),
          // Called at every end of a call, not only when it is cancelled.
          onCancel: () => this.endless.delete(end),
        });
      },
    });
  };
}

/** grpc-js would end a call at once if its deadline is further away than a timer can wait; such a call gets none. */
const isBeyondTimers = (timeout: unknown): boolean => {
  const [, count, unit = ''] = /^(\d{1,8})([HMS])$/.exec(String(timeout)) ?? [];
  return Number(count) * ({ H: 3_600_000, M: 60_000, S: 1_000 }[unit] ?? 0) > longestTimerMs;
};

/** The size of a header list (RFC 9113, 6.5.2). */
const bytesOf = (headers: IncomingHttpHeaders): number =>
  Object.entries(headers).reduce((sum, [name, value]) => sum + name.length + String(value).length + 32, 0);

/** Ends a call if its client sends more than it may in all the open calls of the connection. */
const limitBytes = (stream: ServerHttp2Stream, headerBytes: number, open: { bytes: number }): void => {
  let bytes = 0;
  const release = (): void => {
    open.bytes -= bytes;
    bytes = 0;
  };
  const count = (more: number): void => {
    bytes += more;
    open.bytes += more;
    if (open.bytes <= mostOpenBytes) return;
    stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    // At once, so that it does not end calls that began before it.
    release();
  };
  stream.once('close', release);
  // grpc-js has paused the stream already, so that listening does not make it flow.
  stream.on('data', (some: Buffer) => count(some.length));
  count(Math.max(0, headerBytes - ordinaryHeaderBytes));
};

/**
 * grpc-health-check 2.1 keeps every name that anybody has ever watched. Only names with watchers are kept here; the
 * methods are private.
 */
const forgetWatchedNames = (health: HealthImplementation): void => {
  const watchers: Map<string, Set<unknown>> = health['watchers'];
  const remove = health['removeWatcher'].bind(health) as (name: string, watcher: unknown) => void;
  health['removeWatcher'] = (name: string, watcher: unknown) => {
    remove(name, watcher);
    if (watchers.get(name)?.size === 0) watchers.delete(name);
  };
};

/** Ends the streams that have sent nothing for a time, although something waits to be sent. */
const cutUnread = (unread: ReadonlyMap<ServerHttp2Stream, { since: number }>, answerMs: number): void => {
  const now = performance.now();
  for (const [stream, progress] of unread) {
    if (stream.writableLength === 0) progress.since = now;
    else if (now - progress.since >= answerMs) stream.close(constants.NGHTTP2_CANCEL);
  }
};

const stopping = (): CleaveError =>
  new CleaveError(
    'unavailable',
    'The server is shutting down. Continue on another instance, after the last message received.',
  );

/** The error that `check` refuses with, if any. */
const refusalIn = async (check: () => Promise<void>): Promise<CleaveError | undefined> => {
  try {
    await check();
    return undefined;
  } catch (error) {
    if (error instanceof CleaveError) return error;
    throw error;
  }
};

const refusalWhenBusy = (limiter: Limiter | undefined): CleaveError | undefined => {
  if (!limiter?.refuses()) return undefined;
  const busy =
    'The server is overloaded: more calls arrive than it can answer in time. This one has had no effect; repeat it later.';
  return new CleaveError('unavailable', busy, { retry_after_ms: limiter.retryAfterMs() });
};

/** The caller has given up already, and would not get the answer. */
const refusalWhenLate = (call: Call): CleaveError | undefined =>
  Number(call.getDeadline()) > Date.now()
    ? undefined
    : new CleaveError('deadline-exceeded', 'The call arrived after its deadline and was not carried out.');
