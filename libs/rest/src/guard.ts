import { Logger, createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyInstance, FastifyReply, FastifyRequest, onRequestHookHandler, onSendHookHandler } from 'fastify';
import { CleaveError, type Scope } from '#contracts';
import {
  Authenticator,
  allow,
  anybody,
  callerHeader,
  refuseWhenEnded,
  tooMany,
  type Caller,
  type Standing,
} from '#security';
import { annotateWork } from '#telemetry';
import { eventStream, isRead } from './endpoint.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** The authenticated caller; undefined if the route needs no authentication. */
    caller: Caller | undefined;
  }
}

/** The caller of the request: `@CalledBy() caller: Caller`, at an endpoint that has a scope. */
export const CalledBy = createParamDecorator((_: undefined, context: ExecutionContext): Caller => {
  const request = context.switchToHttp().getRequest<FastifyRequest>();
  // Fastify creates `routeOptions` each time it is read, so it is read only for the error.
  if (request.caller) return request.caller;
  const { method, routeOptions } = request;
  throw new Error(`${method} ${routeOptions.url} is open to anyone, so its callers are not authenticated`);
});

/** How often the followers of a stream are authenticated again, in milliseconds. */
const askAgainMs = 1_000;

/**
 * Authenticates the callers of all routes with an `@Endpoint` and refuses those without its scope, before the body is read.
 */
export const guardRoutes = (fastify: FastifyInstance, authenticator: Authenticator): void => {
  const { isOpen } = authenticator;
  fastify.decorateRequest('caller', isOpen ? { getter: () => anybody } : undefined);
  fastify.addHook('onRoute', (route) => {
    const { replies, scope } = route.config ?? {};
    if (!replies) return;
    if (scope === 'open') {
      // Open routes that change something (webhooks) verify the sender's signature instead.
      if (isOpen && isRead(route)) route.onRequest = [...[route.onRequest ?? []].flat(), refusingHosts(authenticator)];
      return;
    }
    const admit = isOpen ? refusingPages(authenticator) : authenticating(authenticator, () => scope);
    route.onRequest = [...[route.onRequest ?? []].flat(), admit];
    if (isOpen) return;
    if (Object.values(replies).some(({ streamedAs }) => streamedAs === eventStream))
      route.onSend = [reauthenticating(authenticator, scope), ...[route.onSend ?? []].flat()];
  });
};

/** Without authentication, refuses requests from web pages open in a browser on this machine. */
export const refusingPages =
  (authenticator: Authenticator): onRequestHookHandler =>
  ({ headers }, _reply, done) =>
    done(authenticator.refusalOf(headers));

/** The same for open reads, which other sites may link to: checks only the `Host`. */
const refusingHosts =
  (authenticator: Authenticator): onRequestHookHandler =>
  ({ headers }, _reply, done) =>
    done(authenticator.refusalOfHost(headers));

/**
 * Authenticates the caller of a request and checks the scope; without a scope every known caller is admitted. With rate
 * limits, each response carries the caller's remaining quota (draft-ietf-httpapi-ratelimit-headers).
 */
export const authenticating = (
  authenticator: Authenticator,
  scopeOf: (request: FastifyRequest) => Scope | undefined,
): onRequestHookHandler => {
  const policy =
    authenticator.rates && `"caller";q=${authenticator.rates.rate.requests};w=${authenticator.rates.rate.perSeconds}`;
  const tell = (reply: FastifyReply, standing: Standing): void => {
    reply.header('ratelimit-policy', policy);
    reply.header('ratelimit', `"caller";r=${standing.remaining};t=${Math.ceil(standing.resetMs / 1_000)}`);
    if (standing.isRefused) throw tooMany(standing);
  };
  const admit = (request: FastifyRequest, reply: FastifyReply, caller: Caller): void | Promise<void> => {
    // Set before a refusal, because refused requests are audited as well.
    request.caller = caller;
    annotateWork({ tenant: caller.tenant });
    const decide = (standing: Standing | undefined): void => {
      // Counts requests that lack the scope too, because they are answered and audited.
      if (standing) tell(reply, standing);
      const scope = scopeOf(request);
      if (scope !== undefined) allow(caller, scope);
    };
    const standing = authenticator.standingOf(caller);
    if (standing instanceof Promise) return standing.then(decide);
    decide(standing);
  };
  return (request, reply, done) => {
    const { authorization, [callerHeader]: text } = request.headers;
    const told = text === undefined ? undefined : { text: text.toString(), method: request.method, url: request.url };
    const refuse = (error: unknown): void => done(challenged(reply, error));
    let admitted: void | Promise<void>;
    try {
      const caller = authenticator.callerOf(authorization, told);
      admitted =
        caller instanceof Promise ? caller.then((it) => admit(request, reply, it)) : admit(request, reply, caller);
    } catch (error) {
      return refuse(error);
    }
    // Callers that are cached are admitted synchronously.
    if (admitted) admitted.then(() => done(), refuse);
    else done();
  };
};

/** Ends a stream when its caller is not allowed to follow it any more. */
export const reauthenticating =
  (authenticator: Authenticator, scope?: Scope): onSendHookHandler =>
  ({ headers, caller }, reply, payload, done) => {
    if (
      caller &&
      // If the client left during authentication, `close` has already been emitted.
      !reply.raw.closed &&
      authenticator.canAskAgain(caller) &&
      String(reply.getHeader('content-type')).startsWith(eventStream)
    ) {
      const again = setInterval(() => {
        void isRefused(authenticator, headers.authorization, caller, scope).then((it) => it && reply.raw.destroy());
      }, askAgainMs);
      reply.raw.once('close', () => clearInterval(again));
    }
    done(null, payload);
  };

/** If the caller cannot be checked (`unavailable`), the stream goes on unless the credential itself has expired. */
const isRefused = async (
  authenticator: Authenticator,
  authorization: string | undefined,
  known: Caller,
  scope: Scope | undefined,
): Promise<boolean> => {
  try {
    refuseWhenEnded(known);
    const caller = await authenticator.bearerOf(authorization);
    if (scope !== undefined) allow(caller, scope);
    return false;
  } catch (error) {
    if (error instanceof CleaveError) return error.code !== 'unavailable';
    // Nothing catches this rejection, so it would end the process.
    new Logger('Rest').error(error);
    return false;
  }
};

/**
 * Adds `WWW-Authenticate` to a refusal (RFC 6750, 3).
 *
 * @returns the error
 */
const challenged = (reply: FastifyReply, error: unknown): Error => {
  if (!(error instanceof CleaveError)) return error as Error;
  const { code, extensions } = error;
  if (code === 'unauthenticated') {
    const isSent = reply.request.headers.authorization !== undefined;
    reply.header('www-authenticate', isSent ? 'Bearer error="invalid_token"' : 'Bearer');
  } else if (code === 'forbidden') {
    reply.header('www-authenticate', `Bearer error="insufficient_scope", scope="${String(extensions['scope'])}"`);
  }
  return error;
};
