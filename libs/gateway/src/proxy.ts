import { randomBytes } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import httpProxy from '@fastify/http-proxy';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { CleaveError } from '#contracts';
import { asking, askingAgain, auditing, fullHeader, refusingPages } from '#rest';
import { callerHeader, type Authenticator } from '#security';
import { currentTrace } from '#telemetry';
import { auditedAmongPassedOn } from './audited.js';
import { NotReached, onBehalfOf, type BalancedUpstream } from './balanced-upstream.js';

/**
 * Passes on what lies below the prefixes of the upstreams, and their answers, as they are.
 *
 * A body is read whole before the upstream hears of the request: a slow caller occupies no connection to it, a body over
 * the limit is refused here in the same words, and a connection that breaks leaves us something to repeat. Answers are
 * streamed.
 */
export const proxyTo = async (
  fastify: FastifyInstance,
  upstreams: readonly BalancedUpstream[],
  authenticator: Authenticator,
  isTracing: () => boolean = () => false,
): Promise<void> => {
  await fastify.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
    // Nest sets the app's own handler later than this scope is made, so it is looked up when it is needed.
    scope.setErrorHandler((error, request, reply) => fastify.errorHandler(error, request, reply));
    const auditedIn = auditedAmongPassedOn();
    // Whether callers may do what they ask is decided by who answers it, which knows what it is. What is written down is
    // refused here already: that somebody is about to do it is said only of those who may.
    const ask = authenticator.isOpen
      ? refusingPages(authenticator)
      : asking(authenticator, (request) => auditedIn(request)?.scope);
    const open = upstreams.flatMap((it) => it.open);
    scope.addHook('onRequest', function (request, reply, done) {
      if (open.some((prefix) => request.url.startsWith(`${prefix}/`))) done();
      else ask.call(this, request, reply, done);
    });
    const audited = auditing(authenticator, (request) => auditedIn(request)?.operation);
    scope.addHook('onRequest', audited.onRequest).addHook('onSend', audited.onSend);
    scope.addHook('onSend', askingAgain(authenticator));
    scope.addHook('onClose', (_scope, done) => {
      for (const upstream of upstreams) upstream.close();
      done();
    });
    for (const { name, origins, prefixes, dispatcher } of upstreams) {
      await scope.register(httpProxy, {
        // For the addresses to be complete; the dispatcher chooses the instance.
        upstream: origins[0] as string,
        routes: prefixes.flatMap((prefix) => [prefix, `${prefix}/*`]),
        internalRewriteLocationHeader: false,
        // What an address does not answer is refused by the one who has the address.
        httpMethods: scope.supportedMethods,
        proxyPayloads: false,
        disableRequestLogging: true,
        undici: dispatcher,
        replyOptions: {
          rewriteRequestHeaders: (request, given) => ({
            ...withCaller(request as FastifyRequest, requestHeaders(request, given), authenticator),
            'x-request-id': (request as FastifyRequest).id,
            ...traceHeader(isTracing()),
          }),
          rewriteHeaders: answerHeaders,
          // It has been tried as often as there was any use in it.
          retryDelay: () => null,
          // Whoever has gone gets no body: what became of their request goes as far as it is written down.
          onResponse: (_request, reply, { stream }) => {
            if (reply.raw.closed) stream.destroy();
            void reply.send(reply.raw.closed ? '' : stream);
          },
          // Whoever has gone is not answered, but what became of what is written down is.
          onError: (reply, { error }) => {
            if (!reply.raw.closed || auditedIn(reply.request as FastifyRequest)) reply.send(refusalOf(name, error));
          },
        },
        preHandler: (request, _reply, done) => done(dotsIn(request.url) ? refusalOfDots() : undefined),
        // In an address that is parsed as one of the web, a backslash would become a slash.
        handler: (request, reply, path, options) => {
          const pass = () => reply.from(path.replaceAll('\\', '%5C'), { ...options, ...bodyOf(request) });
          if (!auditedIn(request)) return onBehalfOf(reply.raw, pass);
          if (reply.raw.closed) return reply.send(goneBefore());
          // What becomes of what is written down is waited for, whether or not anybody reads it. A request that was not read
          // to its end, as one without a body, would be taken for broken off.
          request.raw.resume();
          return pass();
        },
      });
    }
  });
};

/** What clients say of themselves goes no further; what was found out about them does, signed. */
const withCaller = (
  { caller, method, url }: FastifyRequest,
  { [callerHeader]: _said, authorization, ...headers }: IncomingHttpHeaders,
  authenticator: Authenticator,
): IncomingHttpHeaders => {
  const told = caller && authenticator.toldAs(caller, { method, url });
  return {
    ...headers,
    ...(authenticator.isOpen && authorization !== undefined && { authorization }),
    ...(told !== undefined && { [callerHeader]: told }),
  };
};

/** Whether the path would be resolved, `/a/../b` to `/b`, before it is passed on; the library refuses `/..` anywhere. */
const dotsIn = (url: string): boolean =>
  /\/\.(?:\/|$)|\/\.\.|\.\.\//.test(decodeURIComponent(url.split('?', 1)[0] ?? '').replaceAll('\\', '/'));

const refusalOfDots = (): CleaveError =>
  new CleaveError(
    'invalid-request',
    'The gateway does not forward a path that has a segment "." or contains ../ or /.. (encoded or not). Correct the path.',
  );

/** The body in the very bytes that came; the library would write JSON anew. */
const bodyOf = ({ body, headers }: FastifyRequest): { body: Buffer; contentType: string } | undefined =>
  Buffer.isBuffer(body) ? { body, contentType: headers['content-type'] ?? 'application/octet-stream' } : undefined;

/** What concerns one connection only (RFC 9110, 7.6.1), and Expect, which is answered by whoever reads the body. */
const hopByHop = [
  ...['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'],
  ...['http2-settings', 'proxy-authorization', 'expect'],
];

const endToEnd = (headers: IncomingHttpHeaders): IncomingHttpHeaders => {
  const named = String(headers.connection ?? '')
    .split(',')
    .map((name) => name.trim().toLowerCase());
  const dropped = new Set([...hopByHop, ...named]);
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !dropped.has(name)));
};

/** Which pages may read an answer, and whether too many are connected, is said by whoever they have asked. */
const answerHeaders = (headers: IncomingHttpHeaders): IncomingHttpHeaders =>
  Object.fromEntries(
    Object.entries(endToEnd(headers)).filter(([name]) => name !== fullHeader && !name.startsWith('access-control-')),
  );

const requestHeaders = (
  request: Pick<FastifyRequest, 'body' | 'headers' | 'socket'>,
  given: IncomingHttpHeaders,
): IncomingHttpHeaders => {
  const { 'content-type': contentType, 'content-length': contentLength, ...headers } = endToEnd(given);
  const forwardedFor = [given['x-forwarded-for'], request.socket.remoteAddress].flat().filter(Boolean).join(', ');
  return {
    'x-forwarded-host': request.headers.host,
    'x-forwarded-proto': 'http',
    ...headers,
    'x-forwarded-for': forwardedFor,
    // A body is given a type on its way through the library, whether it came with one or not.
    ...(request.headers['content-type'] !== undefined && { 'content-type': contentType }),
    // GET and HEAD have no body here, whatever they came with.
    ...(request.body !== undefined && { 'content-length': contentLength }),
  };
};

/** What is not traced here is not to begin a trace there. */
const traceHeader = (isTracing: boolean): { traceparent?: string } => {
  const traceparent = currentTrace() ?? (isTracing ? `00-${randomHex(16)}-${randomHex(8)}-00` : undefined);
  return traceparent === undefined ? {} : { traceparent };
};

const randomHex = (bytes: number): string => randomBytes(bytes).toString('hex');

/** The code of what went wrong at the connection, below the library's own error. */
const codeOf = (error: unknown): string => {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: { code?: unknown } };
  return String(cause?.code ?? code);
};

const mayHaveTakenEffect =
  'The request may have taken effect: repeat it with the same Idempotency-Key, or read the current state first.';

const goneBefore = (): CleaveError =>
  new CleaveError('cancelled', 'The client cancelled the request before it was forwarded. It has had no effect.');

const refusalOf = (name: string, error: Error): CleaveError => {
  const cause = error.cause ?? error;
  if (cause instanceof CleaveError) return cause;
  if (codeOf(error) === 'UND_ERR_HEADERS_TIMEOUT') {
    const detail = `The ${name} service has not answered in time. ${mayHaveTakenEffect}`;
    return new CleaveError('deadline-exceeded', detail, {}, { cause });
  }
  const detail =
    cause instanceof NotReached
      ? `The ${name} service cannot be reached. The request has had no effect; repeat it later.`
      : `The connection to the ${name} service failed before it answered. ${mayHaveTakenEffect}`;
  return new CleaveError('unavailable', detail, {}, { cause });
};
