import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { accountId, scopes, tenantId, type Scope } from '#contracts';
import type { Caller } from './caller.js';
import type { ServiceSecrets } from './service-secrets.js';

/** The header in which a gateway tells a service who is calling. It is discarded when a client sends it. */
export const callerHeader = 'cleave-caller';

/** How long a signature is valid, in milliseconds. This includes the difference between the clocks of two machines. */
const goodForMs = 60_000;
const mostRemembered = 10_000;

const told = z.strictObject({
  tenant: tenantId,
  account: accountId,
  scopes: z.array(z.enum([...scopes, 'operator'])),
  key: z.string().optional(),
});

/** The request line: what is being asked for. */
export interface RequestLine {
  method: string;
  /** With the query, as it was sent. */
  url: string;
}

/**
 * Signs who is calling. The signature also covers the request line and the time, so that it cannot be forged without the
 * secret, nor be used for another request or later.
 */
export class SignedCallers {
  private readonly payloads = new WeakMap<Caller, string>();
  /** The callers in verified payloads, so that each payload is parsed once. */
  private readonly callers = new LRUCache<string, Caller>({ max: mostRemembered });

  constructor(
    private readonly secrets: ServiceSecrets,
    private readonly now: () => number = Date.now,
  ) {}

  sign(caller: Caller, request: RequestLine): string {
    const payload = this.payloads.get(caller) ?? payloadOf(caller);
    this.payloads.set(caller, payload);
    const at = String(this.now());
    return `${payload}.${at}.${this.secrets.sign(headOf(request, at), payload)}`;
  }

  /** @returns undefined if it was not signed with the secret, or for another request, or too long ago */
  read(text: string, request: RequestLine): Caller | undefined {
    const [payload = '', at = '', mac = '', ...rest] = text.split('.');
    if (rest.length > 0 || !(Math.abs(Number(at) - this.now()) <= goodForMs)) return undefined;
    if (!this.secrets.isRight(mac, headOf(request, at), payload)) return undefined;
    const caller = this.callers.get(payload) ?? callerIn(payload);
    this.callers.set(payload, caller);
    return caller;
  }
}

const payloadOf = ({ tenant, account, scopes: allowed, keyId: key }: Caller): string => {
  const said = { tenant, account, scopes: [...allowed], ...(key !== undefined && { key }) };
  return Buffer.from(JSON.stringify(said)).toString('base64url');
};

const callerIn = (payload: string): Caller => {
  const said: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString());
  const { tenant, account, scopes: allowed, key } = told.parse(said);
  const caller = { tenant, account, scopes: new Set<Scope>(allowed), isTold: true as const };
  return key === undefined ? caller : { ...caller, keyId: key };
};

/** Begins with the name of the header, so that nothing the secret signs elsewhere is valid here. */
const headOf = ({ method, url }: RequestLine, at: string): string =>
  JSON.stringify([callerHeader, method, targetOf(url), at]);

/** Only characters that no proxy on the way would write differently. */
const plain = /^\/[\w/-]*(?:\?[\w=&-]*)?$/;

/** The target of the request, in the spelling that a proxy which parses it would send. */
const targetOf = (url: string): string => {
  if (plain.test(url)) return url;
  const parsed = URL.parse(url.replaceAll('\\', '%5C'), 'http://service');
  return parsed ? parsed.pathname + parsed.search : url;
};
