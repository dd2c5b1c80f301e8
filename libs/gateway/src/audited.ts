import findMyWay from 'find-my-way';
import type { FastifyRequest } from 'fastify';
import { auditedOperations, limits } from '#contracts';

/**
 * What of the services' operations is written down, told by the router that the services have: an address that is spelled in
 * another way is read here as it is there.
 */
export const operationsPassedOn = (): ((request: FastifyRequest) => string | undefined) => {
  const router = findMyWay({ maxParamLength: limits.parameterLength });
  for (const [operation, [method, path]] of Object.entries(auditedOperations))
    router.on(method, path, () => {}, { operation });
  // HEAD tells of what GET would answer.
  return ({ method, url }) =>
    (
      router.find((method === 'HEAD' ? 'GET' : method) as findMyWay.HTTPMethod, url)?.store as
        { operation: string } | undefined
    )?.operation;
};
