import findMyWay from 'find-my-way';
import type { FastifyRequest } from 'fastify';
import { auditedOperations } from '#contracts';

/**
 * What of the services' operations is written down, told by the router that the services have: an address that is spelled in
 * another way is read here as it is there.
 */
export const operationsPassedOn = (): ((request: FastifyRequest) => string | undefined) => {
  const router = findMyWay();
  for (const [operation, [method, path]] of Object.entries(auditedOperations))
    router.on(method, path, () => {}, { operation });
  return ({ method, url }) =>
    (router.find(method as findMyWay.HTTPMethod, url)?.store as { operation: string } | undefined)?.operation;
};
