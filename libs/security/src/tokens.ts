import { hash } from 'node:crypto';
import type { JWTPayload, JWTVerifyGetKey } from 'jose';
import { z } from 'zod';
import { CleaveError, accountId, scopes, tenantId, type Scope } from '#contracts';
import type { Caller } from './caller.js';
import { isSafelyFetched } from './environment.js';
import { answerWithinMs, askAgainMs, isOfToken, issuerKeys, jose } from './issuer-keys.js';

export interface Issuer {
  url: string;
  audience: string;
  /** The claim that names the tenant. */
  tenantClaim: string;
}

/** Only asymmetric ones: a token with HMAC could be forged with the public key, and one with `none` by anyone. */
const algorithms = [
  ...['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512'],
  ...['ES256', 'ES384', 'ES512', 'EdDSA', 'Ed25519'],
];
/** How far the clock of the issuer may be off, in seconds. */
const clockTolerance = 30;

const configuration = z.looseObject({
  issuer: z.string(),
  jwks_uri: z
    .url()
    .refine(
      (text) => URL.canParse(text) && isSafelyFetched(new URL(text)),
      'must be https, unless it is on this machine',
    ),
});

/** The first pause after a failed discovery, as the network may only be starting up; it doubles each time. */
const firstPauseMs = 500;

/** Verifies access tokens of an OpenID Connect issuer with the keys that it publishes. */
export class Tokens {
  private keys: Promise<JWTVerifyGetKey> | undefined;
  private askAgainAt = Number.NEGATIVE_INFINITY;
  private pauseMs = firstPauseMs;

  constructor(private readonly issuer: Issuer) {
    // Before the first token comes. A failure is reported to the caller who needs it.
    jose().catch(() => undefined);
  }

  /**
   * @returns undefined for a token that is not valid, or that does not name a tenant and an account
   * @throws CleaveError `unavailable` if the keys of the issuer cannot be fetched
   */
  async verify(token: string): Promise<{ caller: Caller; validForMs: number } | undefined> {
    const payload = await this.payloadOf(token);
    const tenant = tenantId.safeParse(payload?.[this.issuer.tenantClaim]);
    const account = accountOf(payload?.sub);
    if (!payload || !tenant.success || account === undefined) return undefined;
    const validForMs = payload.exp! * 1_000 - Date.now();
    return {
      caller: {
        tenant: tenant.data,
        account,
        scopes: scopesIn(payload),
        validUntil: performance.now() + validForMs + clockTolerance * 1_000,
      },
      validForMs,
    };
  }

  private async payloadOf(token: string): Promise<JWTPayload | undefined> {
    const { url, audience } = this.issuer;
    try {
      const { jwtVerify } = await jose();
      // Called only for well-formed tokens, so that nothing else makes this process ask the issuer.
      const keyOf: JWTVerifyGetKey = async (header, signed) => (await this.published())(header, signed);
      const options = { issuer: url, audience, algorithms, clockTolerance, requiredClaims: ['exp'] };
      return (await jwtVerify(token, keyOf, options)).payload;
    } catch (error) {
      if (await isOfToken(error)) return undefined;
      const detail = 'The keys of the token issuer cannot be fetched. Repeat the request later.';
      throw new CleaveError('unavailable', detail, {}, { cause: error });
    }
  }

  /** Pauses after a failure, so that forged tokens cannot make this process ask an unreachable issuer all the time. */
  private published(): Promise<JWTVerifyGetKey> {
    if (this.keys && performance.now() < this.askAgainAt) return this.keys;
    this.keys = this.discover();
    this.askAgainAt = Number.POSITIVE_INFINITY;
    this.keys.catch(() => {
      this.askAgainAt = performance.now() + this.pauseMs;
      this.pauseMs = Math.min(2 * this.pauseMs, askAgainMs);
    });
    return this.keys;
  }

  /** OpenID Connect Discovery 1.0, 4. */
  private async discover(): Promise<JWTVerifyGetKey> {
    const address = `${this.issuer.url.replace(/\/$/, '')}/.well-known/openid-configuration`;
    const response = await fetch(address, { signal: AbortSignal.timeout(answerWithinMs), redirect: 'error' });
    if (!response.ok) throw new Error(`${address} answered ${response.status}`);
    const { issuer, jwks_uri } = configuration.parse(await response.json());
    if (issuer !== this.issuer.url) throw new Error(`${address} is the configuration of another issuer, ${issuer}`);
    return issuerKeys(new URL(jwks_uri));
  }
}

const hashed = 'sha256:';

/**
 * The account of a token. Accounts own Idempotency-Keys, so two subjects never share one. A `sub` that is too long for an
 * account or cannot be stored in Postgres is hashed, and so is one that looks like such a hash.
 */
const accountOf = (sub: unknown): string | undefined => {
  if (typeof sub !== 'string' || sub === '') return undefined;
  const isAccount = accountId.safeParse(sub).success && !sub.startsWith(hashed);
  return isAccount ? sub : `${hashed}${hash('sha256', sub, 'base64url')}`;
};

/** `scope` of RFC 9068, or `scp`, which some issuers use. Unknown scopes are ignored. */
const scopesIn = ({ scope, scp }: JWTPayload): ReadonlySet<Scope> => {
  const named = new Set([scope, scp].flat().flatMap((it) => (typeof it === 'string' ? it.split(' ') : [])));
  return new Set(scopes.filter((it) => named.has(it)));
};
