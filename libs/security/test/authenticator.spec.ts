import { describe, expect, it } from '@jest/globals';
import type { Scope } from '#contracts';
import { Authenticator, ServiceSecrets, secretHashOf, type KnownKey } from '#security';
import { SignedCallers } from '../src/signed-caller.js';

const adminKey = 'the-admin-key-of-this-test-is-long-enough';
const secret = 'the secret of the services, which is long enough';
const ADMIN_KEY = [adminKey];
const SERVICE_SECRET = [secret];
const caller = { tenant: 'shop', account: 'till-1', scopes: new Set<Scope>(['orders:read']) };

const line = { method: 'GET', url: '/orders?limit=1' };
const told = (by = secret): string => new SignedCallers(new ServiceSecrets([by])).sign(caller, line);
const sent = `Bearer ${adminKey}`;

/** The tenant of the caller, or the code of the error. */
const taken = async (by: Authenticator, authorization?: string, header?: string): Promise<string> => {
  try {
    return (await by.callerOf(authorization, header === undefined ? undefined : { text: header, ...line })).tenant;
  } catch (error) {
    return (error as { code: string }).code;
  }
};

describe('an authenticator', () => {
  it('for direct callers accepts their credentials and ignores the signed header', async () => {
    const by = new Authenticator({ ADMIN_KEY, SERVICE_SECRET, from: 'callers' });
    expect(await taken(by, undefined, told())).toBe('unauthenticated');
    expect(await taken(by, sent, told())).toBe('default');
    expect(by.canAskAgain(await by.callerOf(sent, undefined))).toBe(true);
  });

  it('behind a gateway accepts its signed header and ignores credentials', async () => {
    const by = new Authenticator({ ADMIN_KEY, SERVICE_SECRET, from: 'gateway' });
    expect(await taken(by, undefined, told())).toBe('shop');
    expect(await taken(by, sent)).toBe('unauthenticated');
    expect(await taken(by, sent, told('another secret, which is long enough as well'))).toBe('unauthenticated');
    expect(by.canAskAgain(await by.callerOf(undefined, { text: told(), ...line }))).toBe(false);
  });

  it('for both accepts either, the signed header before credentials', async () => {
    const by = new Authenticator({ ADMIN_KEY, SERVICE_SECRET, from: 'either' });
    expect(await taken(by, undefined, told())).toBe('shop');
    expect(await taken(by, sent)).toBe('default');
    expect(await taken(by)).toBe('unauthenticated');
    const forged = told('another secret, which is long enough as well');
    expect(await taken(by, undefined, forged)).toBe('unauthenticated');
    expect(await taken(by, sent, forged)).toBe('default');
    const [said, asked] = [await by.callerOf(sent, { text: told(), ...line }), await by.callerOf(sent, undefined)];
    expect([by.canAskAgain(said), by.canAskAgain(asked)]).toEqual([false, true]);
  });

  it('accepts anonymous callers only if no authentication is configured', async () => {
    for (const from of ['callers', 'gateway', 'either'] as const) {
      expect(await taken(new Authenticator({ from }))).toBe('default');
      expect(await taken(new Authenticator({ from, ADMIN_KEY }))).toBe('unauthenticated');
    }
    // A gateway without authentication signs its anonymous callers, and services accept them only from the gateway.
    const gateway = new Authenticator({ SERVICE_SECRET, from: 'callers' });
    const service = new Authenticator({ SERVICE_SECRET });
    expect(await taken(gateway)).toBe('default');
    expect(await taken(service)).toBe('unauthenticated');
    expect(await taken(service, undefined, gateway.toldAs(await gateway.callerOf(undefined, undefined), line))).toBe(
      'default',
    );
  });

  it('accepts the previous SERVICE_SECRET and ADMIN_KEY during a rotation, and signs with the new secret', async () => {
    const other = 'the secret that takes its place, long enough too';
    const admin = 'the-admin-key-that-takes-its-place-of-the-other';
    const by = new Authenticator({ ADMIN_KEY: [admin, adminKey], SERVICE_SECRET: [other, secret], from: 'either' });
    expect(await taken(by, undefined, told())).toBe('shop');
    expect(await taken(by, undefined, told(other))).toBe('shop');
    for (const credential of [admin, adminKey]) expect(await taken(by, `Bearer ${credential}`)).toBe('default');
    const before = new Authenticator({ SERVICE_SECRET, from: 'gateway' });
    const said = by.toldAs(await by.callerOf(sent, undefined), line);
    expect(await taken(before, undefined, said)).toBe('unauthenticated');
    const between = new Authenticator({ SERVICE_SECRET: [secret, other], from: 'gateway' });
    expect(await taken(between, undefined, said)).toBe('default');
  });

  it('caches a caller whatever the case of the scheme', async () => {
    const by = new Authenticator({ ADMIN_KEY, from: 'callers' });
    const caller = await by.callerOf(sent, undefined);
    for (const scheme of ['bearer', 'BEARER', 'bEaReR'])
      expect(by.callerOf(`${scheme} ${adminKey}`, undefined)).toBe(caller);
  });

  it('tells a caller who sends the key in another form how to send it', async () => {
    const by = new Authenticator({ ADMIN_KEY, from: 'callers' });
    for (const header of [adminKey, `Basic ${btoa(`till:${adminKey}`)}`, `Bearer: ${adminKey}`, ''])
      expect(() => by.callerOf(header, undefined)).toThrow('Authorization: Bearer <key or token>');
    await expect(by.callerOf(`Bearer ${adminKey}0`, undefined)).rejects.toThrow('is not valid');
  });

  it('looks up an API key again after a change, even if it was refused before', async () => {
    const keySecret = 'a'.repeat(64);
    const key = `Bearer ck_${'0'.repeat(32)}_${keySecret}`;
    const by = new Authenticator({ ADMIN_KEY, from: 'callers' });
    let change = (): void => undefined;
    let found: KnownKey | undefined;
    by.useKeys({ hears: true, find: () => Promise.resolve(found), onChange: (forget) => (change = forget) });
    expect(await taken(by, key)).toBe('unauthenticated');
    found = { caller, secretHash: secretHashOf(keySecret), validForMs: null };
    expect(await taken(by, key)).toBe('unauthenticated');
    change();
    // It changes again during this lookup, which may have read the state before, so its result is not cached.
    const asked = by.callerOf(key, undefined);
    change();
    expect(await asked).toMatchObject(caller);
    found = undefined;
    expect(await taken(by, key)).toBe('unauthenticated');
  });

  it('refuses an API key if there is no key directory', async () => {
    const by = new Authenticator({ ADMIN_KEY, from: 'callers' });
    expect(await taken(by, `Bearer ck_${'0'.repeat(32)}_${'0'.repeat(64)}`)).toBe('unauthenticated');
  });
});
