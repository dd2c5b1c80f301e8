import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { accountId, scopes, tenantId, type Scope } from '#contracts';
import type { Caller } from './caller.js';
import type { ServiceSecrets } from './service-secrets.js';

/** In which a gateway tells a service who asks. What a client sends under this name is thrown away. */
export const callerHeader = 'cleave-caller';

/** How long one is good for, in milliseconds, and how far the clocks of two machines may be apart. */
const goodForMs = 60_000;
/** How long the same one is used again. */
const usedForMs = 10_000;
const mostRemembered = 10_000;

const told = z.strictObject({
  tenant: tenantId,
  account: accountId,
  scopes: z.array(z.enum([...scopes, 'operator'])),
  key: z.string().optional(),
  at: z.int(),
});

/** Tells who asks so that nobody without the secret can have said it. */
export class SignedCallers {
  private readonly sent = new WeakMap<Caller, { text: string; at: number }>();
  /** What was found right, and when it was said. */
  private readonly seen = new LRUCache<string, { caller: Caller; at: number }>({ max: mostRemembered });

  constructor(
    private readonly secrets: ServiceSecrets,
    private readonly now: () => number = Date.now,
  ) {}

  sign(caller: Caller): string {
    const at = this.now();
    const before = this.sent.get(caller);
    if (before && Math.abs(at - before.at) < usedForMs) return before.text;
    const { tenant, account, keyId } = caller;
    const said = { tenant, account, scopes: [...caller.scopes], ...(keyId !== undefined && { key: keyId }), at };
    const payload = Buffer.from(JSON.stringify(said)).toString('base64url');
    const text = `${payload}.${this.secrets.sign(callerHeader, payload)}`;
    this.sent.set(caller, { text, at });
    return text;
  }

  /** @returns undefined for what was not signed with the secret, or too long ago */
  read(text: string): Caller | undefined {
    const now = this.now();
    const found = this.seen.get(text) ?? this.verified(text);
    if (!found || Math.abs(found.at - now) > goodForMs) return undefined;
    this.seen.set(text, found);
    return found.caller;
  }

  private verified(text: string): { caller: Caller; at: number } | undefined {
    const [payload = '', mac = '', ...rest] = text.split('.');
    if (rest.length > 0 || !this.secrets.isRight(mac, callerHeader, payload)) return undefined;
    const {
      tenant,
      account,
      scopes: allowed,
      key,
      at,
    } = told.parse(JSON.parse(Buffer.from(payload, 'base64url').toString()));
    return {
      caller: { tenant, account, scopes: new Set<Scope>(allowed), ...(key !== undefined && { keyId: key }) },
      at,
    };
  }
}
