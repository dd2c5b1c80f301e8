import type { FastifyInstance, onRequestHookHandler } from 'fastify';
import type { EndpointConfig } from './endpoint.js';
import { invalid } from './valid.js';

/**
 * Refuses a change with a query where the `@Endpoint` reads none: whoever writes a namespace or an idempotency key there
 * means another change than the one that would be made.
 */
export const refuseUnreadQueries = (fastify: FastifyInstance): void => {
  fastify.addHook('onRoute', (route) => {
    const { replies, readsQuery, rawBody } = (route.config ?? {}) as Partial<EndpointConfig>;
    const isRead = [route.method].flat().every((it) => it === 'GET' || it === 'HEAD');
    // What is signed comes from somebody who was given the address, with whatever stands in it.
    if (!replies || readsQuery || rawBody || isRead) return;
    route.onRequest = [...[route.onRequest ?? []].flat(), refuseQuery];
  });
};

const refuseQuery: onRequestHookHandler = ({ query }, _reply, done) => {
  const names = Object.keys(query as object);
  if (names.length === 0) return done();
  done(invalid(names.map((path) => ({ path, message: 'is not a known member: this operation takes no query' }))));
};
