import findMyWay from 'find-my-way';
import type { FastifyRequest } from 'fastify';
import { limits } from '#contracts';
import { eachAudited, type Audited } from '#rest';

/**
 * What of the services' operations is written down, told by the router that the services have: an address that is spelled in
 * another way is read here as it is there.
 */
export const auditedAmongPassedOn = (): ((request: FastifyRequest) => Audited | undefined) => {
  const router = findMyWay({ maxParamLength: limits.parameterLength });
  eachAudited((method, path, audited) => router.on(method as findMyWay.HTTPMethod, path, () => {}, audited));
  return ({ method, url }) => router.find(method as findMyWay.HTTPMethod, url)?.store as Audited | undefined;
};
