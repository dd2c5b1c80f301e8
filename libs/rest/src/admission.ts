import type {
  FastifyInstance,
  FastifyReply,
  RouteOptions,
  onRequestHookHandler,
  onSendHookHandler,
  preHandlerHookHandler,
} from 'fastify';
import type { Admission, Limiter } from '#admission';
import { busyProblem, type LoadShedder } from './load-shedder.js';
import { sendProblem } from './problems.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** When the limiter admitted the request; undefined while the request does not count as in flight. */
    admittedAt: number | undefined;
  }
}

/**
 * Limits the concurrency of all routes with an `@Endpoint`. Reads and writes have separate limiters so that neither starves
 * the other. Excess requests are refused before their body is read. Only the handler's work counts as in flight, so slow
 * senders, slow readers and followers of a stream do not use up capacity.
 */
export const limitRoutes = (fastify: FastifyInstance, admission: Admission, shedder: LoadShedder): void => {
  fastify.decorateRequest('admittedAt', undefined);
  fastify.addHook('onRoute', (route) => {
    const { replies, isAlwaysAdmitted, admittedAs } = route.config ?? {};
    if (!replies || isAlwaysAdmitted) return;
    const limiter = admission.limiterOf(admittedAs ?? classOf(route));
    limitRoute(route, limiter);
    for (const method of [route.method].flat()) shedder.add(method, route.url, limiter);
  });
};

const classOf = ({ method }: RouteOptions): string => (method === 'GET' || method === 'HEAD' ? 'read' : 'write');

const limitRoute = (route: RouteOptions, limiter: Limiter): void => {
  const admit: onRequestHookHandler = (_request, reply, done) => {
    if (limiter.refuses()) refuse(reply, limiter);
    else done();
  };
  const begin: preHandlerHookHandler = (request, reply, done) => {
    // Other requests may have been admitted while this body was being read.
    if (limiter.refuses()) return refuse(reply, limiter);
    request.admittedAt = limiter.enter();
    done();
  };
  const end: onSendHookHandler = (request, _reply, payload, done) => {
    if (request.admittedAt !== undefined) limiter.leave(request.admittedAt);
    request.admittedAt = undefined;
    done(null, payload);
  };
  route.onRequest = [...[route.onRequest ?? []].flat(), admit];
  route.preHandler = [...[route.preHandler ?? []].flat(), begin];
  route.onSend = [end, ...[route.onSend ?? []].flat()];
};

const refuse = (reply: FastifyReply, limiter: Limiter): void => sendProblem(reply, busyProblem, limiter.retryAfterMs());
