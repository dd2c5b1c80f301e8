import { setTimeout as sleep } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import type { JWTVerifyGetKey } from 'jose';

/** How long an issuer may take to answer. */
export const answerWithinMs = 5_000;
/** How soon the keys are fetched again if a token names one that is not among them, or if fetching them failed. */
export const askAgainMs = 5_000;
/** At which age they are fetched again. */
const renewMs = 600_000;
/** How long a token that could be verified with the known keys waits for that fetch, as its key may have been withdrawn. */
const waitMs = 500;
/** Above this age, tokens wait until that fetch ends. */
const awaitMs = 1_200_000;
/** How long the last keys are trusted while the issuer cannot be reached: about as long as most tokens are valid. */
const believedMs = 3_600_000;

/** Loaded only if it is used: most processes verify no tokens. */
export const jose = () => import('jose');

/** These codes mean a fault of the issuer, not of the token. */
const codesOfIssuer = new Set(['ERR_JOSE_GENERIC', 'ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID']);

export const isOfToken = async (error: unknown): Promise<boolean> => {
  const { errors } = await jose();
  return error instanceof errors.JOSEError && !codesOfIssuer.has(error.code);
};

/**
 * The keys that an issuer publishes. They are fetched every ten minutes, and when a token names an unknown key. If the
 * issuer cannot be reached, tokens with a known key are still accepted for an hour, and do not wait once the failure is
 * known.
 */
export const issuerKeys = async (address: URL): Promise<JWTVerifyGetKey> => {
  const { createRemoteJWKSet, errors } = await jose();
  const logger = new Logger('Tokens');
  const published = createRemoteJWKSet(address, {
    ...{ timeoutDuration: answerWithinMs },
    // When to fetch, by age or for an unknown key, is decided below.
    ...{ cacheMaxAge: Number.POSITIVE_INFINITY, cooldownDuration: Number.POSITIVE_INFINITY },
  });
  let found = { at: Number.NEGATIVE_INFINITY, byTheClock: Number.NEGATIVE_INFINITY };
  let away: { why: unknown; until: number } | undefined;
  let waiting: Promise<void> | undefined;
  /** By both clocks: the system clock may be set back, and the monotonic one stops while the machine sleeps. */
  const age = (): number => Math.max(performance.now() - found.at, Date.now() - found.byTheClock);
  /** Whether the last fetch failed. This stays true while the next one is under way. */
  const isAway = (): boolean => away !== undefined && performance.now() < away.until + answerWithinMs;

  const ask = async (): Promise<void> => {
    if (away && performance.now() < away.until) throw away.why;
    try {
      await published.reload();
      away = undefined;
      found = { at: performance.now(), byTheClock: Date.now() };
    } catch (why) {
      if (!away) logger.warn(`The keys of the issuer cannot be fetched from ${address.href}: ${String(why)}`);
      away = { why, until: performance.now() + askAgainMs };
      throw why;
    }
  };

  const renew = async (): Promise<void> => {
    // `ask` keeps the error, and throws it for tokens that none of the known keys can verify.
    const asked = ask().catch(() => undefined);
    if (isAway()) return;
    if (age() > awaitMs) return asked;
    // Tokens that arrive together share one wait.
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
      // The key may have been published since the last fetch.
      await ask();
      return published(header, token);
    }
  };
};
