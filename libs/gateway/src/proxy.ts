import { randomBytes } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import httpProxy from '@fastify/http-proxy';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { CleaveError } from '#contracts';
import { auditing, authenticating, fullHeader, reauthenticating, refusingPages } from '#rest';
import { callerHeader, type Authenticator } from '#security';
import { currentTrace } from '#telemetry';
import { auditedAmongPassedOn } from './audited.js';
import { NotReached, onBehalfOf, type BalancedUpstream } from './balanced-upstream.js';

/**
 * Passes requests below the prefixes of the upstreams on to them, and their answers back, unchanged.
 *
 * A body is read completely before the upstream gets the request: a slow caller occupies no connection to it, a body over
 * the limit is refused here with the same error, and a request whose connection breaks can be repeated. Answers are
 * streamed.
 */
export const proxyTo = async (
  fastify: FastifyInstance,
  upstreams: readonly BalancedUpstream[],
  authenticator: Authenticator,
  isTracing: () => boolean,
): Promise<void> => {
  await fastify.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
    // Looked up when needed, because Nest sets the app's own handler after this scope is made.
    scope.setErrorHandler((error, request, reply) => fastify.errorHandler(error, request, reply));
    const auditedIn = auditedAmongPassedOn();
    // Permissions are checked by the service that answers. Audited operations are refused here already, so that only
    // permitted ones are recorded as begun.
    const ask = authenticator.isOpen
      ? refusingPages(authenticator)
      : authenticating(authenticator, (request) => auditedIn(request)?.scope);
    const open = upstreams.flatMap((it) => it.open);
    scope.addHook('onRequest', function (request, reply, done) {
      if (open.some((prefix) => request.url.startsWith(`${prefix}/`))) done();
      else ask.call(this, request, reply, done);
    });
    const audited = auditing(authenticator, (request) => auditedIn(request)?.operation);
    scope.addHook('onRequest', audited.onRequest).addHook('onSend', audited.onSend);
    scope.addHook('onSend', reauthenticating(authenticator));
    scope.addHook('onClose', (_scope, done) => {
      for (const upstream of upstreams) upstream.close();
      done();
    });
    for (const { name, origins, prefixes, dispatcher } of upstreams) {
      await scope.register(httpProxy, {
        // Only completes the address; the dispatcher chooses the instance.
        upstream: origins[0] as string,
        routes: prefixes.flatMap((prefix) => [prefix, `${prefix}/*`]),
        internalRewriteLocationHeader: false,
        // The service refuses the methods that a path does not support.
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
          // The dispatcher has already retried as often as is useful.
          retryDelay: () => null,
          // A caller that has disconnected gets no body, but its answer still passes the hooks, for the audit log.
          onResponse: (_request, reply, { stream }) => {
            if (reply.raw.closed) stream.destroy();
            void reply.send(reply.raw.closed ? '' : stream);
          },
          // A caller that has disconnected gets no error, unless the outcome must be recorded in the audit log.
          onError: (reply, { error }) => {
            if (!reply.raw.closed || auditedIn(reply.request as FastifyRequest)) reply.send(refusalOf(name, error));
          },
        },
        preHandler: (request, _reply, done) => done(dotsIn(request.url) ? refusalOfDots() : undefined),
        // A backslash would become a slash when the address is parsed as a web URL.
        handler: (request, reply, path, options) => {
          const pass = () => reply.from(path.replaceAll('\\', '%5C'), { ...options, ...bodyOf(request) });
          if (!auditedIn(request)) return onBehalfOf(reply.raw, pass);
          if (reply.raw.closed) return reply.send(goneBefore());
          // An audited request goes on even if its caller disconnects, so that its outcome is recorded. Without `resume`, a
          // request that was not read to its end, such as one without a body, would count as aborted.
          request.raw.resume();
          return pass();
        },
      });
    }
  });
};

/** Removes what clients claim about themselves, and adds the authenticated caller, signed. */
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

/** Whether the path contains dot segments, which would be resolved (`/a/../b` to `/b`); the library refuses `/..` itself. */
const dotsIn = (url: string): boolean =>
  /\/\.(?:\/|$)|\/\.\.|\.\.\//.test(decodeURIComponent(url.split('?', 1)[0] ?? '').replaceAll('\\', '/'));

const refusalOfDots = (): CleaveError =>
  new CleaveError(
    'invalid-request',
    'The gateway does not forward a path that has a segment "." or contains ../ or /.. (encoded or not). Correct the path.',
  );

/** The body in its original bytes; the library would serialise JSON anew. */
const bodyOf = ({ body, headers }: FastifyRequest): { body: Buffer; contentType: string } | undefined =>
  Buffer.isBuffer(body) ? { body, contentType: headers['content-type'] ?? 'application/octet-stream' } : undefined;

/** Hop-by-hop headers (RFC 9110, 7.6.1), and Expect, which is answered by the process that reads the body. */
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

/** CORS headers, and whether there are too many connections, come from the process that the caller is connected to. */
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
    // The library adds a content type to every body, even if the request has none.
    ...(request.headers['content-type'] !== undefined && { 'content-type': contentType }),
    // GET and HEAD are passed on without a body, whatever they came with.
    ...(request.body !== undefined && { 'content-length': contentLength }),
  };
};

/** An untraced request must not start a trace in the service: it gets a trace context that is not sampled. */
const traceHeader = (isTracing: boolean): { traceparent?: string } => {
  const traceparent = currentTrace() ?? (isTracing ? `00-${randomHex(16)}-${randomHex(8)}-00` : undefined);
  return traceparent === undefined ? {} : { traceparent };
};

const randomHex = (bytes: number): string => randomBytes(bytes).toString('hex');

/** The code of the connection's error, which is the cause of the library's own. */
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
