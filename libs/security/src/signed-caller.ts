import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { accountId, scopes, tenantId, type Scope } from '#contracts';
import type { Caller } from './caller.js';
import type { ServiceSecrets } from './service-secrets.js';

/** In which a gateway tells a service who asks. What a client sends under this name is thrown away. */
export const callerHeader = 'cleave-caller';

/** How long one is good for, in milliseconds, with what the clocks of two machines may be apart. */
const goodForMs = 60_000;
const mostRemembered = 10_000;

const told = z.strictObject({
  tenant: tenantId,
  account: accountId,
  scopes: z.array(z.enum([...scopes, 'operator'])),
  key: z.string().optional(),
});

/** What is asked for: the first line of a request. */
export interface RequestLine {
  method: string;
  /** With the query, as it was sent. */
  url: string;
}

/**
 * Tells who asks so that nobody without the secret can have said it, nor say it of another request or later: signed is what
 * is asked for as well, and when.
 */
export class SignedCallers {
  private readonly payloads = new WeakMap<Caller, string>();
  /** What was signed right once, to be read once. */
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

  /** @returns undefined for what was not signed with the secret, or of another request, or too long ago */
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

/** Begins with the name of the header, so that what the secret signs elsewhere is none of these. */
const headOf = ({ method, url }: RequestLine, at: string): string =>
  JSON.stringify([callerHeader, method, targetOf(url), at]);

/** Of letters and digits alone: what no one on the way writes in another way. */
const plain = /^\/[\w/-]*(?:\?[\w=&-]*)?$/;

/** What is asked for, written as whoever passes it on would. */
const targetOf = (url: string): string => {
  if (plain.test(url)) return url;
  const parsed = URL.parse(url.replaceAll('\\', '%5C'), 'http://service');
  return parsed ? parsed.pathname + parsed.search : url;
};
