import { hash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { LRUCache } from 'lru-cache';
import { CleaveError, defaultAccount, defaultTenant, type Scope } from '#contracts';
import type { AuditLog } from './audit-log.js';
import { anybody, countedAs, notValid, type Caller } from './caller.js';
import type { RequestsFrom, SecuritySettings } from './environment.js';
import { KeyLookups } from './key-lookups.js';
import { keyIdIn, secretHashOf, type KeyDirectory } from './keys.js';
import { refusalOfHost, refusalOfPage, type UnauthenticatedAccess } from './unauthenticated-access.js';
import { RateLimits, type Standing } from './rate-limits.js';
import { ServiceSecrets } from './service-secrets.js';
import { SignedCallers, type RequestLine } from './signed-caller.js';
import { Tokens } from './tokens.js';

export interface AuthenticatorOptions extends SecuritySettings {
  /** `gateway` when left out. */
  from?: RequestsFrom | undefined;
  /** The host that the process listens on. */
  HOST?: string | undefined;
}

/** The signed header in which a gateway says who is calling, and the request that it came with. */
export interface Told extends RequestLine {
  text: string;
}

interface Verified {
  caller: Caller;
  /** On the monotonic clock (`performance.now()`). */
  until: number;
}

interface Found extends Verified {
  isKey?: boolean;
}

const mostRemembered = 10_000;
/** How long a token is trusted before it is checked again that its issuer still publishes the key. */
const tokenRememberedMs = 30_000;
/** The same for an API key. Changes of keys are notified, but a proxy in between may withhold the notification. */
const keyRememberedMs = 60_000;
const longestHeader = 8_192;
const bearer = /^Bearer ([^\s,]+)$/i;

/** Finds out from the headers of a request who is calling. */
export class Authenticator {
  /** Authentication is off: anyone may do everything. */
  readonly isOpen: boolean;
  /** Verified callers, by the hash of their credential. */
  private readonly remembered = new LRUCache<string, Verified>({ max: mostRemembered });
  private readonly signed: SignedCallers | undefined;
  /** The hashes of the current `ADMIN_KEY` and of earlier ones that are still accepted. */
  private readonly admins: readonly Buffer[];
  private readonly tokens: Tokens | undefined;
  private readonly from: RequestsFrom;
  private readonly access: UnauthenticatedAccess;
  /** How many requests each caller may send, if that is limited. */
  readonly rates: RateLimits | undefined;
  /** The audit log, if this process writes one. */
  auditLog: AuditLog | undefined;
  private keys: KeyDirectory | undefined;
  private readonly lookups = new KeyLookups<Found>();
  private changes = 0;

  constructor({ ADMIN_KEY, SERVICE_SECRET, OIDC_ISSUER, OIDC_AUDIENCE, ...options }: AuthenticatorOptions = {}) {
    const { from = 'gateway', OIDC_TENANT_CLAIM: tenantClaim = 'tenant' } = options;
    this.from = from;
    this.signed = SERVICE_SECRET && new SignedCallers(new ServiceSecrets(SERVICE_SECRET));
    this.admins = (ADMIN_KEY ?? []).map(secretHashOf);
    this.access = { host: options.HOST, origins: new Set(options.CORS_ORIGINS) };
    if (OIDC_ISSUER !== undefined && OIDC_AUDIENCE !== undefined)
      this.tokens = new Tokens({ url: OIDC_ISSUER, audience: OIDC_AUDIENCE, tenantClaim });
    this.isOpen = this.admins.length === 0 && !this.tokens && (!this.signed || from === 'callers');
    const { RATE_LIMIT: rate, RATE_LIMIT_REDIS_URL: redisUrl } = options;
    // A gateway counts what it passes on. That leaves calls that bypass it with a credential, over gRPC.
    const knowsOthers = !this.believesGatewayAlone || this.admins.length > 0 || this.tokens !== undefined;
    if (rate && !this.isOpen && knowsOthers) this.rates = new RateLimits(rate, redisUrl);
  }

  /** Counts a request, unless a gateway has done so. */
  standingOf(caller: Caller): Standing | Promise<Standing> | undefined {
    if (!this.rates || caller.isTold) return undefined;
    return this.rates.take(countedAs(caller));
  }

  /** Why a request is refused although authentication is off: a page of another site sent it, or it names another host. */
  refusalOf(headers: IncomingHttpHeaders): CleaveError | undefined {
    return this.isOpen ? refusalOfPage(headers, this.access) : undefined;
  }

  /** The same for what is open to everyone: only the host of the request is checked. */
  refusalOfHost(headers: IncomingHttpHeaders): CleaveError | undefined {
    return this.isOpen ? refusalOfHost(headers, this.access) : undefined;
  }

  /** Whether the credential of a request can be verified again later. What a gateway says is valid only for a short time. */
  canAskAgain(caller: Caller): boolean {
    return !this.isOpen && !caller.isTold;
  }

  /** Sets where API keys are looked up. Each change of a key there clears what is remembered here. */
  useKeys(keys: KeyDirectory): void {
    this.keys = keys;
    keys.onChange(() => {
      this.changes += 1;
      this.remembered.clear();
      this.lookups.forget();
    });
  }

  /**
   * The caller of a REST request, without a promise if the caller is remembered.
   *
   * @throws CleaveError `unauthenticated`, or `unavailable` if the credential cannot be verified at the moment
   */
  callerOf(authorization: string | undefined, told: Told | undefined): Caller | Promise<Caller> {
    if (this.isOpen) return anybody;
    const caller = this.toldBy(told);
    if (caller) return caller;
    if (this.believesGatewayAlone) throw notSaid();
    return this.bearerOf(authorization);
  }

  /** The same for requests that bypass a gateway, as those over gRPC do. */
  bearerOf(authorization: string | undefined): Caller | Promise<Caller> {
    if (this.isOpen) return anybody;
    if (authorization === undefined) throw notSaid();
    if (authorization.length > longestHeader) throw notValid();
    const credential = bearer.exec(authorization)?.[1];
    if (credential === undefined) throw notSaid();
    // Only the credential is hashed: the scheme has many spellings, and each of them would take a place in the cache.
    const text = hash('sha256', credential, 'base64');
    const known = this.remembered.get(text);
    if (known && performance.now() < known.until) return known.caller;
    return this.found(credential, text);
  }

  /** The header value that tells a service behind this process who is calling; undefined without a SERVICE_SECRET. */
  toldAs(caller: Caller, request: RequestLine): string | undefined {
    return this.signed?.sign(caller, request);
  }

  private get believesGatewayAlone(): boolean {
    return this.signed !== undefined && this.from === 'gateway';
  }

  private toldBy(told: Told | undefined): Caller | undefined {
    return told === undefined || this.from === 'callers' ? undefined : this.signed?.read(told.text, told);
  }

  private async found(credential: string, text: string): Promise<Caller> {
    const { changes } = this;
    const { caller, until, isKey } = (await this.verified(credential, text)) ?? refuse();
    // If a change of a key was notified during the lookup, the lookup may have read the state before the change.
    const mayRemember = !isKey || (this.keys!.hears && this.changes === changes);
    if (mayRemember) this.remembered.set(text, { caller, until });
    return caller;
  }

  private async verified(credential: string, text: string): Promise<Found | undefined> {
    const key = keyIdIn(credential);
    if (key) return this.lookups.find(text, () => this.ofKey(key));
    const hashed = secretHashOf(credential);
    if (this.admins.some((it) => timingSafeEqual(hashed, it))) return { caller: operator, until: Infinity };
    const found = await this.tokens?.verify(credential);
    return found && { caller: found.caller, until: performance.now() + Math.min(found.validForMs, tokenRememberedMs) };
  }

  private async ofKey({ keyId, secret }: { keyId: string; secret: string }): Promise<Found | undefined> {
    // The validity counts from before the lookup, so that a slow answer does not extend it.
    const askedAt = performance.now();
    const found = await this.keys?.find(keyId);
    if (!found || !timingSafeEqual(secretHashOf(secret), found.secretHash)) return undefined;
    const validUntil = askedAt + (found.validForMs ?? Infinity);
    const until = Math.min(validUntil, performance.now() + keyRememberedMs);
    return { caller: { ...found.caller, validUntil }, until, isKey: true };
  }
}

/** The caller that sends the ADMIN_KEY. */
const operator: Caller = {
  tenant: defaultTenant,
  account: defaultAccount,
  scopes: new Set<Scope>(['admin', 'operator']),
};

const notSaid = (): CleaveError =>
  new CleaveError(
    'unauthenticated',
    'Send an API key or a token of the issuer in the header Authorization: Bearer <key or token>.',
  );

const refuse = (): never => {
  throw notValid();
};
