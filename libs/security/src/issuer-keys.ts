import {
  createLocalJWKSet,
  createRemoteJWKSet,
  errors,
  jwksCache,
  type JWKSCacheInput,
  type JWTVerifyGetKey,
} from 'jose';

const answerWithinMs = 5_000;
/** How soon they are asked for again when a token names one that is not among them, or when they were not to be had. */
const askAgainMs = 5_000;
/** For how long those that were published last are believed while they cannot be asked for: as long as a token is good, mostly. */
const believedMs = 3_600_000;

/** What is wrong with the issuer, not with the token. */
const codesOfIssuer = new Set(['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID']);

export const isOfToken = (error: unknown): boolean =>
  error instanceof errors.JOSEError && !codesOfIssuer.has(error.code);

/**
 * The keys that an issuer publishes, asked for every ten minutes and when a token names another one. An issuer that cannot be
 * asked shuts nobody out whose token is signed with a key that it had: not for an hour.
 */
export const issuerKeys = (address: URL): JWTVerifyGetKey => {
  const last: JWKSCacheInput = {};
  const published = createRemoteJWKSet(address, {
    ...{ timeoutDuration: answerWithinMs, cooldownDuration: askAgainMs },
    [jwksCache]: last,
  });
  let away: { why: unknown; until: number } | undefined;
  return async (header, token) => {
    try {
      if (away && performance.now() < away.until) throw away.why;
      const key = await published(header, token);
      away = undefined;
      return key;
    } catch (why) {
      const { jwks, uat } = last;
      if (isOfToken(why) || jwks === undefined || uat === undefined) throw why;
      if (why !== away?.why) away = { why, until: performance.now() + askAgainMs };
      if (Date.now() - uat > believedMs) throw why;
      return createLocalJWKSet(jwks)(header, token).catch((error: unknown) => {
        // It may have been published since.
        throw isOfToken(error) ? why : error;
      });
    }
  };
};
