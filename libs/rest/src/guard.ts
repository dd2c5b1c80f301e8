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
import { noteOfWork } from '#telemetry';
import { eventStream, type EndpointConfig } from './endpoint.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Who sends it; where anybody may come, nobody has asked. */
    caller: Caller | undefined;
  }
}

/** Who sends the request: `@CalledBy() caller: Caller`, at an endpoint that has a scope. */
export const CalledBy = createParamDecorator((_: undefined, context: ExecutionContext): Caller => {
  const { caller, method, routeOptions } = context.switchToHttp().getRequest<FastifyRequest>();
  if (!caller) throw new Error(`${method} ${routeOptions.url} is open to anyone, so its callers are not authenticated`);
  return caller;
});

/** How often those who follow a stream are looked up again, in milliseconds. */
const askAgainMs = 1_000;

/**
 * Has everybody who comes to an `@Endpoint` say who they are, and refuses them what they have no scope for, before the body
 * is read.
 */
export const guardRoutes = (fastify: FastifyInstance, authenticator: Authenticator): void => {
  const { isOpen } = authenticator;
  fastify.decorateRequest('caller', isOpen ? { getter: () => anybody } : undefined);
  fastify.addHook('onRoute', (route) => {
    const { replies, scope } = (route.config ?? {}) as Partial<EndpointConfig>;
    if (!replies) return;
    if (scope === 'open') {
      // What is sent to all the same, from outside, is signed by whoever sends it.
      const isRead = [route.method].flat().every((it) => it === 'GET' || it === 'HEAD');
      if (isOpen && isRead) route.onRequest = [...[route.onRequest ?? []].flat(), refusingHosts(authenticator)];
      return;
    }
    const admit = isOpen ? refusingPages(authenticator) : asking(authenticator, () => scope);
    route.onRequest = [...[route.onRequest ?? []].flat(), admit];
    if (isOpen) return;
    if (Object.values(replies).some(({ streamedAs }) => streamedAs === eventStream))
      route.onSend = [askingAgain(authenticator, scope), ...[route.onSend ?? []].flat()];
  });
};

/** Where nobody is asked who they are, keeps out the pages that somebody on this machine looks at. */
export const refusingPages =
  (authenticator: Authenticator): onRequestHookHandler =>
  ({ headers }, _reply, done) =>
    done(authenticator.refusalOf(headers));

/** The same of what is told to everybody, where pages of others may link to. */
const refusingHosts =
  (authenticator: Authenticator): onRequestHookHandler =>
  ({ headers }, _reply, done) =>
    done(authenticator.refusalOfHost(headers));

/**
 * Finds out who sends a request, and whether they may: all who are known, where it takes no scope. Where requests are
 * limited, each answer says how many more may come (draft-ietf-httpapi-ratelimit-headers).
 */
export const asking = (
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
    // Before it is refused: what somebody was not allowed is written down as well.
    request.caller = caller;
    noteOfWork({ tenant: caller.tenant });
    const decide = (standing: Standing | undefined): void => {
      // Also of those who may not do what they ask for: they are answered, and it is written down.
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
    // Whoever is known already does not wait.
    if (admitted) admitted.then(() => done(), refuse);
    else done();
  };
};

/** Ends the stream of whoever is not allowed to follow it any more. */
export const askingAgain =
  (authenticator: Authenticator, scope?: Scope): onSendHookHandler =>
  ({ headers, caller }, reply, payload, done) => {
    if (
      caller &&
      // Of whoever left while it was found out who asks, the end was told already.
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

/** Not where it cannot be found out, which ends nothing but what has come to its own end. */
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
    // Nobody is there to catch it, and it would end the process.
    new Logger('Rest').error(error);
    return false;
  }
};

/** Says beside a refusal what would be let in (RFC 6750, 3). @returns the error */
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
