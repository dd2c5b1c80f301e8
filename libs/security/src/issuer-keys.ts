import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import { createRemoteJWKSet, errors, type JWTVerifyGetKey } from 'jose';

/** How long an issuer may take to answer. */
export const answerWithinMs = 5_000;
/** How soon they are asked for again when a token names one that is not among them, or when they were not to be had. */
export const askAgainMs = 5_000;
/** How old they may be before they are asked for again. */
const renewMs = 600_000;
/** How long that is waited for by who could be let in by those that are known, as some may have been withdrawn. */
const waitMs = 500;
/** How old they may be before nobody is let in by them who has not waited for the answer. */
const awaitMs = 1_200_000;
/** For how long those that were published last are believed while they cannot be asked for: as long as a token is good, mostly. */
const believedMs = 3_600_000;

/** What is wrong with the issuer, not with the token. */
const codesOfIssuer = new Set(['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID']);

export const isOfToken = (error: unknown): boolean =>
  error instanceof errors.JOSEError && !codesOfIssuer.has(error.code);

/**
 * The keys that an issuer publishes, asked for every ten minutes and when a token names another one. An issuer that cannot be
 * asked shuts nobody out whose token is signed with a key that it had, nor keeps them waiting once that is known: not for an
 * hour.
 */
export const issuerKeys = (address: URL): JWTVerifyGetKey => {
  const logger = new Logger('Tokens');
  const published = createRemoteJWKSet(address, {
    ...{ timeoutDuration: answerWithinMs },
    // How old they are, and when a token names another key, is seen to here.
    ...{ cacheMaxAge: Number.POSITIVE_INFINITY, cooldownDuration: Number.POSITIVE_INFINITY },
  });
  let found = { at: Number.NEGATIVE_INFINITY, byTheClock: Number.NEGATIVE_INFINITY };
  let away: { why: unknown; until: number } | undefined;
  let waiting: Promise<void> | undefined;
  /** The clock may be set back, and the other one stands still while the machine sleeps. */
  const age = (): number => Math.max(performance.now() - found.at, Date.now() - found.byTheClock);
  /** As it was asked last, or while it is asked again. */
  const isAway = (): boolean => away !== undefined && performance.now() < away.until + answerWithinMs;

  const ask = async (): Promise<void> => {
    if (away && performance.now() < away.until) throw away.why;
    try {
      await published.reload();
      away = undefined;
      found = { at: performance.now(), byTheClock: Date.now() };
    } catch (why) {
      if (!away) logger.warn(`The issuer cannot be asked for its keys at ${address.href}: ${String(why)}`);
      away = { why, until: performance.now() + askAgainMs };
      throw why;
    }
  };

  const renew = async (): Promise<void> => {
    // The reason is kept, and told to those whom the keys that are known do not let in.
    const asked = ask().catch(() => undefined);
    if (isAway()) return;
    if (age() > awaitMs) return asked;
    // All who come together wait for as long.
    waiting ??= Promise.race([asked, sleep(waitMs, undefined, { ref: false })]).finally(() => (waiting = undefined));
    await waiting;
  };

  return async (header, token) => {
    if (age() > believedMs) await ask();
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
