import { Logger } from '@nestjs/common';
import type { FastifyInstance, FastifyRequest, onRequestHookHandler, onSendHookHandler } from 'fastify';
import { CleaveError, auditedOperations, limits, type Scope } from '#contracts';
import { countedAs, withoutKeySecrets, type Authenticator, type NewAuditEntry } from '#security';

/** An operation that is recorded in the audit log, and the scope it requires. */
export interface Audited {
  operation: string;
  scope: Scope;
}

/**
 * Calls `add` with each audited method and path. An audited GET is audited as HEAD too, which reveals what GET would
 * answer.
 */
export const eachAudited = (add: (method: string, path: string, audited: Audited) => void): void => {
  for (const [operation, [method, path, scope]] of Object.entries(auditedOperations))
    for (const it of method === 'GET' ? ['GET', 'HEAD'] : [method]) add(it, path, { operation, scope });
};

/** Audits the routes of this process. The hooks run after authentication and admission. */
export const auditRoutes = (fastify: FastifyInstance, authenticator: Authenticator): void => {
  const names = new Map<string, string>();
  eachAudited((method, path, { operation }) => names.set(`${method} ${path}`, operation));
  fastify.addHook('onRoute', (route) => {
    const operation = names.get(`${String(route.method)} ${route.url}`);
    const { replies, scope } = route.config ?? {};
    if (operation === undefined || !replies || scope === 'open') return;
    const audited = auditing(authenticator, () => operation);
    route.onRequest = [...[route.onRequest ?? []].flat(), audited.onRequest];
    route.onSend = [...[route.onSend ?? []].flat(), audited.onSend];
  });
};

/**
 * Writes one audit entry before the operation, with the caller, and one with the status before the response is sent. If the
 * first cannot be written, the operation is not carried out. A caller who is refused with 403 before that gets only the
 * second entry.
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
      // A caller may have put a key into the path by mistake, where its id belongs.
      target: withoutKeySecrets(request.url.split(/[?#]/, 1)[0]!.slice(0, limits.urlLength)),
    };
  };
  /** @returns undefined if there is nothing to write */
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
          // The error's detail says that the request had no effect, which is not true here, so only its code is logged.
          `the outcome of request ${request.id} could not be written to the audit log (${error instanceof CleaveError ? error.code : String(error)})`,
        );
      void written.catch(lost).then(() => done(null, payload));
    },
  };
};
