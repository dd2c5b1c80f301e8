import { isIP } from 'node:net';
import { z } from 'zod';
import { env, withoutBrackets, type VariableFault } from '#config';
import type { Rate } from './rate-limits.js';

const mostSecrets = 4;

/** A list, so that a secret can be replaced: the first one is used, and all of them are accepted. */
const secretsOf = (pattern: RegExp, characters: string) =>
  env
    .list()
    .pipe(
      z
        .array(z.string().regex(pattern, `must have at least 32 characters, random ones${characters}`))
        .max(mostSecrets, `must be at most ${mostSecrets}, separated by commas: the current one and earlier ones`),
    );

export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));

/** Keys that are fetched without TLS could come from anyone. */
export const isSafelyFetched = (url: URL): boolean =>
  url.protocol === 'https:' || isLoopback(withoutBrackets(url.hostname));

const issuer = env.httpUrl.refine(
  (text) => !URL.canParse(text) || isSafelyFetched(new URL(text)),
  'must be https, unless it is on this machine',
);

/** Browsers send no path, no trailing slash and no default port, so an origin with any of these would never match. */
const isOrigin = (text: string): boolean =>
  /^https?:/.test(text) && URL.canParse(text) && new URL(text).origin === text;

const seconds = { second: 1, minute: 60, hour: 3_600 };

/** How a process authenticates callers. If nothing is set, anyone may do everything, and only this machine can connect. */
export const securityEnvironment = {
  /** The first credential, that of the operator of the installation. It is sent as a bearer token (RFC 6750, 2.1). */
  ADMIN_KEY: secretsOf(/^[A-Za-z0-9\-._~+/]{32,}=*$/, ' of A-Z, a-z, 0-9 and -._~+/').optional(),
  /** With this, services authenticate the gateway and each other. */
  SERVICE_SECRET: secretsOf(/^.{32,}$/s, '').optional(),
  OIDC_ISSUER: issuer.optional(),
  OIDC_AUDIENCE: z.string().min(1).optional(),
  OIDC_TENANT_CLAIM: z.string().min(1).default('tenant'),
  /** How many requests a key, or an account of an issuer, may send. */
  RATE_LIMIT: z
    .string()
    .regex(
      /^[1-9]\d{0,8}\/(?:second|minute|hour)$/,
      'must be a number of requests a second, minute or hour, such as 600/minute',
    )
    .transform((text): Rate => {
      const [requests, per] = text.split('/') as [string, keyof typeof seconds];
      return { requests: Number(requests), perSeconds: seconds[per] };
    })
    .optional(),
  /** The Redis through which several processes share the count. */
  RATE_LIMIT_REDIS_URL: env.redisUrl.optional(),
  /** The origins whose pages may read the answers in a browser. */
  CORS_ORIGINS: env
    .list()
    .refine(
      (origins) => origins.every(isOrigin),
      'must be origins as browsers send them: https://shop.example,https://…',
    )
    .optional(),
};

export type SecuritySettings = Partial<z.output<z.ZodObject<typeof securityEnvironment>>>;

/**
 * Who sends requests to a process: callers themselves, a gateway that has authenticated them, or both. A gateway is
 * recognised by the `SERVICE_SECRET`; without one, callers are authenticated here.
 */
export type RequestsFrom = 'callers' | 'gateway' | 'either';

/** Where a process listens, and whom it trusts. */
export interface Exposure extends SecuritySettings {
  HOST: string;
  /** Where it serves gRPC, as `host:port`, if it does. */
  grpcAt?: string | undefined;
  /** The hosts where it listens for messages, or of the broker that brings messages or events. */
  messagesAt?: readonly string[];
  from: RequestsFrom;
  /** Whether it passes requests on to other processes. */
  passesOn: boolean;
}

const choices = 'set ADMIN_KEY to at least 32 random characters, or OIDC_ISSUER and OIDC_AUDIENCE';

/** Why a process must not start: other machines can reach it and it authenticates nobody, or its settings are incomplete. */
export const exposureFaults = (exposure: Exposure): VariableFault[] => {
  const { ADMIN_KEY, SERVICE_SECRET, OIDC_ISSUER, OIDC_AUDIENCE, HOST, grpcAt, from, passesOn } = exposure;
  const { RATE_LIMIT, RATE_LIMIT_REDIS_URL } = exposure;
  const farMessages = (exposure.messagesAt ?? []).filter((host) => !isLoopback(host));
  const asks = ADMIN_KEY !== undefined || OIDC_ISSUER !== undefined;
  const grpcHost = grpcAt && withoutBrackets(grpcAt.slice(0, grpcAt.lastIndexOf(':')));
  const faults: VariableFault[] = [];
  const refuse = (variable: string, message: string): void => void faults.push({ variable, message });
  const refuseOpen = (variable: string, host: string, advice: string): void => {
    if (!isLoopback(host))
      refuse(variable, `${host} can be reached from other machines, and callers need not authenticate: ${advice}`);
  };

  if (!asks && from === 'callers') refuseOpen('HOST', HOST, choices);
  else if (!asks && SERVICE_SECRET === undefined)
    refuseOpen('HOST', HOST, `${choices}; or SERVICE_SECRET, behind a gateway that has the same`);
  if (!asks && SERVICE_SECRET === undefined && grpcHost !== undefined)
    refuseOpen('ORDER_GRPC_LISTEN', grpcHost, choices);
  if (asks && passesOn && SERVICE_SECRET === undefined)
    refuse(
      'SERVICE_SECRET',
      'is not set, so the services behind this process would not know the caller; set the same 32 random characters or more there and here',
    );
  if (farMessages.length > 0 && SERVICE_SECRET === undefined)
    refuse(
      'SERVICE_SECRET',
      `is not set, but messages or events come by ${farMessages.join()}, which other machines can reach: set the same 32 random characters or more in all services`,
    );
  if (OIDC_ISSUER !== undefined && OIDC_AUDIENCE === undefined)
    refuse('OIDC_AUDIENCE', 'is not set, but OIDC_ISSUER is: name the audience that its tokens for this API have');
  if (RATE_LIMIT_REDIS_URL !== undefined && RATE_LIMIT === undefined)
    refuse(
      'RATE_LIMIT',
      'is not set, so that RATE_LIMIT_REDIS_URL would limit nothing: say how many requests a key may send, such as 600/minute, or leave both out',
    );
  return faults;
};
