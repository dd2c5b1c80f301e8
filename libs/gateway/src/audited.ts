import findMyWay from 'find-my-way';
import type { FastifyRequest } from 'fastify';
import { limits } from '#contracts';
import { eachAudited, type Audited } from '#rest';

/**
 * Finds the audited operation of a request. It uses the router of the services, so that every spelling of a path is matched
 * as it is there.
 */
export const auditedAmongPassedOn = (): ((request: FastifyRequest) => Audited | undefined) => {
  const router = findMyWay({ maxParamLength: limits.parameterLength });
  eachAudited((method, path, audited) => router.on(method as findMyWay.HTTPMethod, path, () => {}, audited));
  return ({ method, url }) => router.find(method as findMyWay.HTTPMethod, url)?.store as Audited | undefined;
};
