import type {
  FastifyInstance,
  FastifyReply,
  RouteOptions,
  onRequestHookHandler,
  onSendHookHandler,
  preHandlerHookHandler,
} from 'fastify';
import type { Admission, Limiter } from '#admission';
import type { EndpointConfig } from './endpoint.js';
import { problemOf, sendProblem } from './problems.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Whether it counts among those under way. */
    isAdmitted: boolean;
  }
}

/**
 * Has what an `@Endpoint` answers limited: reads and writes apart, so that neither starves the other. Who is too many is
 * refused before the body is read. Counted is the work alone: neither a caller who is slow to send, nor one who is slow to
 * read, nor one who follows a stream, keeps others away.
 */
export const limitRoutes = (fastify: FastifyInstance, admission: Admission): void => {
  fastify.decorateRequest('isAdmitted', false);
  const refusals = new Refusals();
  fastify.addHook('onRoute', (route) => {
    const { replies, isAlwaysAdmitted } = (route.config ?? {}) as Partial<EndpointConfig>;
    if (replies && !isAlwaysAdmitted) limitRoute(route, admission.limiterOf(classOf(route)), refusals);
  });
};

const classOf = ({ method }: RouteOptions): string => (method === 'GET' || method === 'HEAD' ? 'read' : 'write');

const limitRoute = (route: RouteOptions, limiter: Limiter, refusals: Refusals): void => {
  const admit: onRequestHookHandler = (_request, reply, done) => {
    if (limiter.refuses()) refusals.add(reply, limiter);
    else done();
  };
  const begin: preHandlerHookHandler = (request, reply, done) => {
    // Others may have begun while the body was on its way.
    if (limiter.refuses()) return refusals.add(reply, limiter);
    limiter.enter();
    request.isAdmitted = true;
    done();
  };
  const end: onSendHookHandler = (request, _reply, payload, done) => {
    if (request.isAdmitted) limiter.leave();
    request.isAdmitted = false;
    done(null, payload);
  };
  route.onRequest = [...[route.onRequest ?? []].flat(), admit];
  route.preHandler = [...[route.preHandler ?? []].flat(), begin];
  route.onSend = [end, ...[route.onSend ?? []].flat()];
};

const busy =
  'More requests come than can be answered in time. This one has had no effect; repeat it after Retry-After.';

/** Refusing takes at most so much of the time that everything else takes. */
const timeOverOthers = 1 / 3;
const fewestAtOnce = 16;

/**
 * Answers those who are refused after what else the event loop has to do, so many at a time. Otherwise what is under way
 * would wait at each of its steps until everybody else has been refused; and a connection whose refusal waits brings no
 * other request.
 */
class Refusals {
  private readonly waiting = new Map<FastifyReply, Limiter>();
  private pausedAtMs = 0;

  add(reply: FastifyReply, limiter: Limiter): void {
    if (this.waiting.size === 0) setImmediate(this.answerSome);
    this.waiting.set(reply, limiter);
  }

  private readonly answerSome = (): void => {
    const beganAtMs = performance.now();
    const pauseAtMs = beganAtMs + (beganAtMs - this.pausedAtMs) * timeOverOthers;
    let answered = 0;
    for (const [reply, limiter] of this.waiting) {
      if (answered >= fewestAtOnce && performance.now() > pauseAtMs) break;
      this.waiting.delete(reply);
      refuse(reply, limiter);
      answered += 1;
    }
    this.pausedAtMs = performance.now();
    if (this.waiting.size > 0) setImmediate(this.answerSome);
  };
}

const refuse = (reply: FastifyReply, limiter: Limiter): void =>
  sendProblem(reply, problemOf('unavailable', busy), limiter.retryAfterMs());
