import type { FastifyInstance, onRequestHookHandler } from 'fastify';
import { isRead } from './endpoint.js';
import { invalid, unknownParameter } from './valid.js';

/**
 * Refuses a change with a query string if its `@Endpoint` reads none: a caller who puts a namespace or an idempotency key
 * there intends a different change than the one that would be made.
 */
export const refuseUnreadQueries = (fastify: FastifyInstance): void => {
  fastify.addHook('onRoute', (route) => {
    const { replies, readsQuery, rawBody } = route.config ?? {};
    // A webhook sender calls whatever URL it was given, including its query.
    if (!replies || readsQuery || rawBody || isRead(route)) return;
    route.onRequest = [...[route.onRequest ?? []].flat(), refuseQuery];
  });
};

const refuseQuery: onRequestHookHandler = ({ query }, _reply, done) => {
  const names = Object.keys(query as object);
  if (names.length === 0) return done();
  done(invalid(names.map((path) => ({ path, message: `${unknownParameter}: this operation takes no query` }))));
};
