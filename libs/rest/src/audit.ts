import { Logger } from '@nestjs/common';
import type { FastifyInstance, FastifyRequest, onRequestHookHandler, onSendHookHandler } from 'fastify';
import { CleaveError, auditedOperations, limits, type Scope } from '#contracts';
import { countedAs, withoutKeySecrets, type Authenticator, type NewAuditEntry } from '#security';
import type { EndpointConfig } from './endpoint.js';

/** What is written down when somebody asks for it, and what they have to be allowed for it. */
export interface Audited {
  operation: string;
  scope: Scope;
}

/** Calls `add` with each method and path at which something is written down. HEAD tells of what GET would answer. */
export const eachAudited = (add: (method: string, path: string, audited: Audited) => void): void => {
  for (const [operation, [method, path, scope]] of Object.entries(auditedOperations))
    for (const it of method === 'GET' ? ['GET', 'HEAD'] : [method]) add(it, path, { operation, scope });
};

/** Has what is done at the routes of this process written down, once it is known who asks and that there is room for it. */
export const auditRoutes = (fastify: FastifyInstance, authenticator: Authenticator): void => {
  const names = new Map<string, string>();
  eachAudited((method, path, { operation }) => names.set(`${method} ${path}`, operation));
  fastify.addHook('onRoute', (route) => {
    const operation = names.get(`${String(route.method)} ${route.url}`);
    const { replies, scope } = (route.config ?? {}) as Partial<EndpointConfig>;
    if (operation === undefined || !replies || scope === 'open') return;
    const audited = auditing(authenticator, () => operation);
    route.onRequest = [...[route.onRequest ?? []].flat(), audited.onRequest];
    route.onSend = [...[route.onSend ?? []].flat(), audited.onSend];
  });
};

/**
 * Writes down who asks before it is done, and what it was answered with before that is sent. Where the first cannot be
 * written nothing is done. Of those who are refused before that, whoever was not allowed has the second alone.
 */
export const auditing = (
  authenticator: Authenticator,
  operationOf: (request: FastifyRequest) => string | undefined,
): { onRequest: onRequestHookHandler; onSend: onSendHookHandler } => {
  const begun = new WeakMap<FastifyRequest, NewAuditEntry>();
  const entryOf = (request: FastifyRequest): NewAuditEntry | undefined => {
    const operation = authenticator.auditLog && operationOf(request);
    if (!operation || !request.caller) return undefined;
    const { tenant, account, keyId, scopes } = request.caller;
    return {
      ...{ tenant, account, key_id: keyId ?? null, is_operator: scopes.has('operator') },
      ...{ operation, request_id: request.id, status: null },
      // Somebody in a hurry may have put a key where its id belongs.
      target: withoutKeySecrets(request.url.split(/[?#]/, 1)[0]!.slice(0, limits.urlLength)),
    };
  };
  /** @returns undefined where there is nothing to write */
  const end = (request: FastifyRequest, status: number, made: unknown): Promise<void> | undefined => {
    const entry = begun.get(request);
    if (entry) {
      const target = typeof made === 'string' ? made : entry.target;
      return authenticator.auditLog?.append({ ...entry, status, target });
    }
    const refused = status === 403 ? entryOf(request) : undefined;
    return refused && authenticator.auditLog?.appendRefusal({ ...refused, status }, countedAs(request.caller!));
  };
  return {
    onRequest: (request, _reply, done) => {
      const entry = entryOf(request);
      if (!entry) return done();
      const written = authenticator.auditLog!.append(entry);
      written.then(() => {
        begun.set(request, entry);
        done();
      }, done);
    },
    onSend: (request, reply, payload, done) => {
      const written = end(request, reply.statusCode, reply.getHeader('location'));
      if (!written) return done(null, payload);
      const lost = (error: unknown): void =>
        new Logger('Audit').error(
          // What is said to callers who are refused, that it had no effect, is not true of this one.
          `the outcome of request ${request.id} could not be written to the audit log (${error instanceof CleaveError ? error.code : String(error)})`,
        );
      void written.catch(lost).then(() => done(null, payload));
    },
  };
};
