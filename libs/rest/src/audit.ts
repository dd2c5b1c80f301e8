import { Logger } from '@nestjs/common';
import type { FastifyRequest, onRequestHookHandler, onSendHookHandler } from 'fastify';
import { auditedOperations, limits } from '#contracts';
import type { Authenticator } from '#security';

const names = new Map(
  Object.entries(auditedOperations).map(([operation, [method, path]]) => [`${method} ${path}`, operation]),
);

/** The name of what is written down when a route is asked, or nothing. HEAD tells of what GET would answer. */
export const operationAt = (method: string, path: string): string | undefined =>
  names.get(`${method === 'HEAD' ? 'GET' : method} ${path}`);

/**
 * Writes down who asks before it is done, and what it was answered with before that is sent. Where the first cannot be
 * written nothing is done; whoever was not allowed has the second alone.
 */
export const auditing = (
  authenticator: Authenticator,
  operationOf: (request: FastifyRequest) => string | undefined,
): { onRequest: onRequestHookHandler; onSend: onSendHookHandler } => {
  const append = (request: FastifyRequest, status: number | null, made?: unknown): Promise<void> | undefined => {
    const { auditLog } = authenticator;
    const operation = auditLog && operationOf(request);
    if (!operation || !request.caller) return undefined;
    const { tenant, account, keyId, scopes } = request.caller;
    return auditLog.append({
      ...{ tenant, account, key_id: keyId ?? null, is_operator: scopes.has('operator') },
      ...{ operation, request_id: request.id, status },
      target: typeof made === 'string' ? made : request.url.split(/[?#]/, 1)[0]!.slice(0, limits.urlLength),
    });
  };
  return {
    onRequest: (request, _reply, done) => {
      const appended = append(request, null);
      if (appended) appended.then(() => done(), done);
      else done();
    },
    onSend: (request, reply, payload, done) => {
      // Who sends too many would fill a log that nothing is ever removed from; they are counted in the metrics.
      if (reply.statusCode === 429) return done(null, payload);
      const appended = append(request, reply.statusCode, reply.getHeader('location'));
      if (!appended) return done(null, payload);
      const lost = (error: unknown): void =>
        new Logger('Audit').error(`what became of ${request.id} could not be written down (${String(error)})`);
      void appended.catch(lost).then(() => done(null, payload));
    },
  };
};
