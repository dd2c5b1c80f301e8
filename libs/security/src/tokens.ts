import { hash } from 'node:crypto';
import { jwtVerify, type JWTPayload, type JWTVerifyGetKey } from 'jose';
import { z } from 'zod';
import { CleaveError, accountId, scopes, tenantId, type Scope } from '#contracts';
import type { Caller } from './caller.js';
import { isSafelyFetched } from './environment.js';
import { answerWithinMs, askAgainMs, isOfToken, issuerKeys } from './issuer-keys.js';

export interface Issuer {
  url: string;
  audience: string;
  /** The claim that names the tenant. */
  tenantClaim: string;
}

/** None that a secret, or nobody, could have signed with: such would be forged with the public key. */
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

/** Where the way to the issuer is only just there, it is not given up for long; each further time for twice as long. */
const firstPauseMs = 500;

/** Access tokens of an OpenID Connect issuer, by the keys that it publishes. */
export class Tokens {
  private keys: Promise<JWTVerifyGetKey> | undefined;
  private askAgainAt = Number.NEGATIVE_INFINITY;
  private pauseMs = firstPauseMs;

  constructor(private readonly issuer: Issuer) {}

  /**
   * @returns undefined for one that is not valid, or does not say for which tenant and whose it is
   * @throws CleaveError `unavailable` where the issuer cannot be asked for its keys
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
      // Nobody is asked about what is no token.
      const keyOf: JWTVerifyGetKey = async (header, signed) => (await this.published())(header, signed);
      const options = { issuer: url, audience, algorithms, clockTolerance, requiredClaims: ['exp'] };
      return (await jwtVerify(token, keyOf, options)).payload;
    } catch (error) {
      if (isOfToken(error)) return undefined;
      const detail = 'The issuer of tokens cannot be asked for its keys. Repeat the request later.';
      throw new CleaveError('unavailable', detail, {}, { cause: error });
    }
  }

  /** Whoever sends tokens that anybody could make does not have an issuer asked that was away a moment ago. */
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
 * Whose Idempotency-Keys they are: nobody shares an account with somebody else. A `sub` that is no account itself, being too
 * long or not to be kept in Postgres, stands for one by its hash; one that looks like such a hash as well.
 */
const accountOf = (sub: unknown): string | undefined => {
  if (typeof sub !== 'string' || sub === '') return undefined;
  const isAccount = accountId.safeParse(sub).success && !sub.startsWith(hashed);
  return isAccount ? sub : `${hashed}${hash('sha256', sub, 'base64url')}`;
};

/** `scope` of RFC 9068, or `scp` as some issuers have it. What is none of ours counts for nothing. */
const scopesIn = ({ scope, scp }: JWTPayload): ReadonlySet<Scope> => {
  const named = new Set([scope, scp].flat().flatMap((it) => (typeof it === 'string' ? it.split(' ') : [])));
  return new Set(scopes.filter((it) => named.has(it)));
};
