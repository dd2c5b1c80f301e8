import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import { createRemoteJWKSet, errors, type JWTVerifyGetKey } from 'jose';

const answerWithinMs = 5_000;
/** How soon they are asked for again when a token names one that is not among them, or when they were not to be had. */
const askAgainMs = 5_000;
/** How old they may be before they are asked for again. */
const renewMs = 600_000;
/** How long that is waited for by who could be let in by those that are known. */
const waitMs = 500;
/** For how long those that were published last are believed while they cannot be asked for: as long as a token is good, mostly. */
const believedMs = 3_600_000;

/** What is wrong with the issuer, not with the token. */
const codesOfIssuer = new Set(['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID']);

export const isOfToken = (error: unknown): boolean =>
  error instanceof errors.JOSEError && !codesOfIssuer.has(error.code);

/**
 * The keys that an issuer publishes, asked for every ten minutes and when a token names another one. An issuer that cannot be
 * asked shuts nobody out whose token is signed with a key that it had, nor keeps them waiting: not for an hour.
 */
export const issuerKeys = (address: URL): JWTVerifyGetKey => {
  const logger = new Logger('Tokens');
  const published = createRemoteJWKSet(address, {
    ...{ timeoutDuration: answerWithinMs, cacheMaxAge: believedMs },
    // When a token names another key is seen to here.
    cooldownDuration: Number.POSITIVE_INFINITY,
  });
  let foundAt = 0;
  let away: { why: unknown; until: number } | undefined;
  const age = (): number => Date.now() - foundAt;

  const ask = async (): Promise<void> => {
    if (away && performance.now() < away.until) throw away.why;
    try {
      await published.reload();
      away = undefined;
      foundAt = Date.now();
    } catch (why) {
      if (!away) logger.warn(`The issuer cannot be asked for its keys at ${address.href}: ${String(why)}`);
      away = { why, until: performance.now() + askAgainMs };
      throw why;
    }
  };

  /** Whoever is the first waits for a moment, as keys may have been withdrawn. */
  const renew = async (): Promise<void> => {
    const isFirst = !away && !published.reloading;
    // The reason is kept, and told to those whom the keys that are known do not let in.
    const asked = ask().catch(() => undefined);
    if (isFirst) await Promise.race([asked, sleep(waitMs, undefined, { ref: false })]);
  };

  return async (header, token) => {
    if (!published.fresh) await ask();
    else if (age() > renewMs) await renew();
    try {
      return await published(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey) || (!away && age() < askAgainMs)) throw error;
      // It may have been published since.
      await ask();
      return published(header, token);
    }
  };
};
