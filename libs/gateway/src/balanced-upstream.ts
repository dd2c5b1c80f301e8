import { AsyncLocalStorage } from 'node:async_hooks';
import type { ServerResponse } from 'node:http';
import { isIP, type LookupFunction } from 'node:net';
import type { Meter } from '@opentelemetry/api';
import { Agent, Pool, type Dispatcher } from 'undici';
import { withoutBrackets } from '#config';
import { CleaveError, limits } from '#contracts';
import {
  NoAddress,
  Targets,
  reportTo,
  type Attempts,
  type Instance,
  type Lookup,
  type Outcome,
  type Place,
  type TargetsOptions,
} from '#balancing';
import { fullHeader } from '#rest';
import type { Upstream } from './routes.js';

interface Timeouts {
  connectTimeoutMs: number;
  /** From the end of the request to the first byte of the answer, and between any two parts of the answer. */
  answerTimeoutMs: number;
}

export type UpstreamOptions = Partial<Timeouts> & Pick<TargetsOptions<Place, Instance>, 'lookupMs' | 'maxInFlight'>;

/** The answer timeout exceeds every deadline between the services, so that their errors, which say more, come first. */
const standardTimeouts: Timeouts = { connectTimeoutMs: 2_000, answerTimeoutMs: 30_000 };

/**
 * How long an idle connection is kept, in milliseconds. A service that stops keeps idle connections open for twice as long,
 * so that it is usually the gateway that closes one. If the service does, it refuses a request that it meets.
 */
const keepAliveMs = 1_000;

/** The request was certainly not sent to any instance. */
export class NotReached extends Error {
  override readonly name = 'NotReached';
}

const callers = new AsyncLocalStorage<ServerResponse>();

/** Sends a request for a caller: when the caller disconnects, it is aborted, and no further instance is tried. */
export const onBehalfOf = <Result>(caller: ServerResponse, send: () => Result): Result => callers.run(caller, send);

type Origin = Required<Place>;

const placeOf = (origin: string): Origin => {
  const { hostname, port, protocol } = new URL(origin);
  return { origin, host: withoutBrackets(hostname), port: Number(port) || (protocol === 'https:' ? 443 : 80) };
};

/** Resolves every name to this address; the name remains in the Host header and in TLS. */
const alwaysTo =
  (address: string): LookupFunction =>
  (_host, { all }, done) =>
    all ? done(null, [{ address, family: isIP(address) }]) : done(null, address, isIP(address));

/** One instance, over connections of its own. */
class HttpInstance implements Instance {
  readonly pool: Pool;

  constructor(
    readonly origin: string,
    address: string,
    readonly leaving: () => void,
    { connectTimeoutMs, answerTimeoutMs }: Timeouts,
  ) {
    this.pool = new Pool(origin, {
      connectTimeout: connectTimeoutMs,
      headersTimeout: answerTimeoutMs,
      bodyTimeout: answerTimeoutMs,
      keepAliveTimeout: keepAliveMs,
      keepAliveMaxTimeout: keepAliveMs,
      connect: { rejectUnauthorized: true, lookup: alwaysTo(address) },
    });
  }

  /** Asks for readiness: an instance that cannot reach its dependencies should get no requests either. */
  async probe(signal: AbortSignal): Promise<void> {
    const { statusCode, headers, body } = await this.pool.request({ method: 'GET', path: '/health/ready', signal });
    await body.dump();
    if (statusCode !== 200 || endsConnection(headers)) throw new Error(`it answers ${statusCode}`);
  }

  close(): void {
    void this.pool.destroy();
  }
}

const endsConnection = ({ connection }: Record<string, string | string[] | undefined>): boolean =>
  /\bclose\b/i.test(String(connection));

/** Statuses after which a service closes the connection because of the request: it may not have read all of it. */
const closesConnection = new Set([400, 408, 413, 415, 431]);

/** What the status and the headers of an answer say about the instance. */
const outcomeIn = (status: number, { [fullHeader]: full }: Record<string, unknown>): Outcome => {
  // The request was not begun: with too many connections, or during its start, an instance runs no handlers.
  if (status === 503 && (full === 'connections' || full === 'start')) return 'full';
  if (status === 503 && full !== undefined) return 'busy';
  return status < 500 ? 'answered' : 'failing';
};

/** A service with its instances. */
export class BalancedUpstream {
  /** Sends each request to an instance, and retries it on another one if that is safe. */
  readonly dispatcher: Dispatcher;
  private readonly targets: Targets<Origin, HttpInstance>;
  private readonly timeouts: Timeouts;
  /** Only needed to compose the dispatcher: it never opens a connection. */
  private readonly base = new Agent();

  constructor(
    private readonly upstream: Upstream,
    { lookupMs, maxInFlight, ...timeouts }: UpstreamOptions = {},
    lookup?: Lookup,
  ) {
    this.timeouts = { ...standardTimeouts, ...timeouts };
    this.targets = new Targets({
      ...{ name: upstream.name, at: upstream.origins.map(placeOf), policy: upstream.balance },
      ...{ maxInFlight, lookupMs, lookup },
      instanceAt: ({ origin }, address, leaving) => new HttpInstance(origin, address, leaving, this.timeouts),
    });
    this.dispatcher = this.base.compose(() => (options, handler) => this.dispatch(options, handler));
  }

  get name(): Upstream['name'] {
    return this.upstream.name;
  }

  get origins(): readonly string[] {
    return this.upstream.origins;
  }

  get prefixes(): readonly string[] {
    return this.upstream.prefixes;
  }

  get open(): readonly string[] {
    return this.upstream.open;
  }

  /** Asks any instance. @throws Error if none can be reached or answers in time */
  get(path: string, timeoutMs: number): Promise<Dispatcher.ResponseData> {
    const signal = AbortSignal.timeout(timeoutMs);
    return this.dispatcher.request({ method: 'GET', origin: this.origins[0], path, headers: {}, signal });
  }

  /** Asks every known instance. */
  async getFromEach(path: string, timeoutMs: number): Promise<PromiseSettledResult<Dispatcher.ResponseData>[]> {
    await this.targets.starting();
    const asked = this.targets.instances.map(({ pool }) =>
      pool.request({ method: 'GET', path, signal: AbortSignal.timeout(timeoutMs) }),
    );
    return Promise.allSettled(asked);
  }

  /** Sends a request to every instance, including ejected ones. @returns the answers by address */
  async sendToEach(
    request: Pick<Dispatcher.RequestOptions, 'method' | 'path' | 'headers' | 'body'>,
    timeoutMs: number,
  ): Promise<[address: string, answer: PromiseSettledResult<Dispatcher.ResponseData>][]> {
    const instances = await this.targets.current();
    const sent = instances.map(([, { pool }]) => pool.request({ ...request, signal: AbortSignal.timeout(timeoutMs) }));
    const answers = await Promise.allSettled(sent);
    return instances.map(([address], at) => [address, answers[at]!]);
  }

  reportTo(meter: Meter): void {
    reportTo(meter, this.targets, 'http');
  }

  close(): void {
    this.targets.close();
    void this.base.destroy();
  }

  private dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    if (isHeadTooLarge(options)) {
      handler.onResponseError?.(undefined as never, headTooLarge());
      return true;
    }
    const request = new BalancedRequest(
      options,
      handler,
      this.targets.attempts(isRepeatable(options, this.upstream.keyed)),
      this.timeouts.answerTimeoutMs,
    );
    const caller = callers.getStore();
    if (caller?.closed) request.giveUp();
    else caller?.once('close', () => request.giveUp());
    const starting = this.targets.starting();
    if (starting) void starting.then(() => request.send());
    else request.send();
    return true;
  }
}

/** Headers added when a request is sent: `Connection`, and the length of its body. */
const fieldsBesides = 2;
const bytesBesides = 128;
/** `: ` and the line break. */
const bytesOfField = 4;

/** Whether the service would refuse the head of the request, which is larger than the one that the caller sent. */
const isHeadTooLarge = ({ method, path, headers }: Dispatcher.DispatchOptions): boolean => {
  let fields = fieldsBesides;
  let bytes = method.length + path.length + bytesBesides;
  for (const [name, value] of Object.entries(headers as Record<string, string | string[] | undefined>)) {
    if (value === undefined) continue;
    for (const it of [value].flat()) {
      fields += 1;
      bytes += name.length + String(it).length + bytesOfField;
    }
  }
  return fields > limits.headers || bytes > limits.headerBytes;
};

const headTooLarge = (): CleaveError =>
  new CleaveError(
    'headers-too-large',
    `With the header fields that the gateway adds, a request can have at most ${limits.headers} header fields and ` +
      `${limits.headerBytes} bytes before its body; send fewer or shorter ones.`,
  );

const repeatableMethods = new Set<unknown>(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE']);

/** A PUT with a counted stock level: repeated, it would overwrite what has moved in between. */
const counted = /^\/stock\//;

/**
 * Whether sending the request twice has the same effect as sending it once. Not if it is conditional: the first request may
 * have changed the version that the second one requires, or created what it must be the first to create. An Idempotency-Key
 * counts only where the service reads it.
 */
const isRepeatable = ({ method, path, headers }: Dispatcher.DispatchOptions, keyed: RegExp | undefined): boolean => {
  const given = headers as Record<string, unknown>;
  if (given['if-match'] !== undefined) return false;
  if (method === 'POST') return given['idempotency-key'] !== undefined && keyed?.test(addressIn(path)) === true;
  if (method === 'PUT' && (given['if-none-match'] !== undefined || counted.test(addressIn(path)))) return false;
  return repeatableMethods.has(method);
};

/** Decoded, as the router matches it. */
const addressIn = (path: string): string => decodeURIComponent(path.split('?', 1)[0]!);

/** Errors that are not the instance's: the request was withdrawn, or cannot be sent. */
const codesOfCaller = new Set<unknown>([
  ...['UND_ERR_ABORTED', 'UND_ERR_DESTROYED', 'UND_ERR_CLOSED', 'UND_ERR_INVALID_ARG', 'UND_ERR_NOT_SUPPORTED'],
]);
const isOfOtherLength = (error: NodeJS.ErrnoException): boolean => error.code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH';
const codesOfTime = new Set<unknown>(['UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_BODY_TIMEOUT']);

/** One request, with its attempts on one instance or several. */
class BalancedRequest {
  private readonly giveUpAt: number;
  /** Error of an attempt that was sent but not answered. It outranks later ones: the request may have been carried out. */
  private unknown: Error | undefined;
  private isGivenUp = false;
  /** The attempt that was sent and is not answered yet. */
  private unanswered: Dispatcher.DispatchController | undefined;

  constructor(
    private readonly options: Dispatcher.DispatchOptions,
    private readonly handler: Dispatcher.DispatchHandler,
    private readonly attempts: Attempts<HttpInstance>,
    answerTimeoutMs: number,
  ) {
    this.giveUpAt = performance.now() + answerTimeoutMs;
  }

  /** Does nothing once the answer has begun: the proxy then notices itself that the caller has disconnected. */
  giveUp(): void {
    this.isGivenUp = true;
    this.unanswered?.abort(givenUp());
  }

  send(): void {
    if (this.isGivenUp) return this.fail(undefined, givenUp());
    try {
      this.attempt();
    } catch (error) {
      const why = error instanceof NoAddress ? new NotReached(error.message, { cause: error }) : (error as Error);
      this.fail(undefined, why);
    }
  }

  private attempt(): void {
    const { handler } = this;
    const attempt = this.attempts.next();
    const { instance } = attempt;
    let isSent = false;
    let isNotModified = false;
    let outcome: Outcome | undefined;
    /** What to do instead of passing the answer on. */
    let insteadOfAnswer: (() => void) | undefined;
    const end = (controller: Dispatcher.DispatchController, trailers: Record<string, string | string[]>): void => {
      attempt.end(outcome ?? 'answered');
      if (insteadOfAnswer) insteadOfAnswer();
      else handler.onResponseEnd?.(controller, trailers);
    };
    instance.pool.dispatch(this.optionsFor(instance), {
      onRequestStart: (controller, context) => {
        isSent = true;
        handler.onRequestStart?.(controller, context);
        this.unanswered = controller;
        if (this.isGivenUp) controller.abort(givenUp());
      },
      onRequestUpgrade: (...upgraded) => handler.onRequestUpgrade?.(...upgraded),
      onResponseStart: (controller, status, headers, message) => {
        if (status >= 200) this.unanswered = undefined;
        isNotModified = status === 304;
        const told = outcomeIn(status, headers);
        if (told === 'full') {
          outcome = told;
          attempt.answerBegins(outcome);
          const { unknown } = this;
          if (this.mayTryAnother(outcome)) insteadOfAnswer = () => this.send();
          else if (unknown) insteadOfAnswer = () => this.fail(controller, unknown);
          else if (headers['content-length'] === '0') insteadOfAnswer = () => this.fail(controller, notHeard());
        } else if (status >= 200) {
          outcome = told;
          // `Connection: close` announces no shutdown when there are too many connections.
          const isDrain = endsConnection(headers) && (outcome === 'busy' || headers[fullHeader] === undefined);
          if (isDrain && !closesConnection.has(status)) instance.leaving();
          attempt.answerBegins(outcome);
        }
        if (!insteadOfAnswer) handler.onResponseStart?.(controller, status, headers, message);
      },
      onResponseData: (controller, chunk) => {
        if (!insteadOfAnswer) handler.onResponseData?.(controller, chunk);
      },
      onResponseEnd: end,
      onResponseError: (controller, error) => {
        this.unanswered = undefined;
        // A 304 may have the length that the answer to an unconditional request would have (RFC 9110, 8.6).
        if (isNotModified && isOfOtherLength(error)) return end(controller, {});
        const failed = outcomeOf(error, isSent);
        attempt.end(failed);
        if (insteadOfAnswer && failed !== 'given-up') return insteadOfAnswer();
        if (failed === 'lost' || failed === 'late') this.unknown ??= error;
        // Once part of an answer was passed on, there can be no other attempt.
        if (outcome === undefined && this.mayTryAnother(failed)) return this.send();
        this.fail(controller, failed === 'not-sent' ? new NotReached(error.message, { cause: error }) : error);
      },
    });
  }

  /** An attempt that cannot connect takes time too. */
  private mayTryAnother(outcome: Outcome): boolean {
    return performance.now() < this.giveUpAt && this.attempts.another(outcome);
  }

  private optionsFor({ origin }: HttpInstance): Dispatcher.DispatchOptions {
    const headersTimeout = Math.max(1, this.giveUpAt - performance.now());
    const headers = { ...(this.options.headers as Record<string, string>), host: new URL(origin).host };
    // Otherwise undici would send `Connection: close` with HEAD, and the echoed header would look like a shutdown.
    return { ...this.options, origin, headers, headersTimeout, reset: false };
  }

  private fail(controller: Dispatcher.DispatchController | undefined, error: Error): void {
    this.handler.onResponseError?.(controller as Dispatcher.DispatchController, this.unknown ?? error);
  }
}

const givenUp = (): CleaveError =>
  new CleaveError(
    'cancelled',
    'The client cancelled the request before there was a response. The request may have taken effect.',
  );

/** For a refusal that a service gave before it had read the request: it has no body. */
const notHeard = (): CleaveError =>
  new CleaveError(
    'unavailable',
    'A service this request needs accepts no more connections. The request has had no effect; repeat it.',
    { retry_after_ms: 1_000 },
  );

const outcomeOf = (error: Error, isSent: boolean): Outcome => {
  const { code } = error as NodeJS.ErrnoException;
  if (
    error instanceof CleaveError ||
    codesOfCaller.has(code) ||
    error.name === 'AbortError' ||
    error.name === 'TimeoutError'
  )
    return 'given-up';
  if (!isSent) return 'not-sent';
  return codesOfTime.has(code) ? 'late' : 'lost';
};
