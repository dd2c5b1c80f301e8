import { describe, expect, it } from '@jest/globals';
import type { Scope } from '#contracts';
import { Authenticator } from '#security';
import { SignedCallers } from '../src/signed-caller.js';

const ADMIN_KEY = 'the-admin-key-of-this-test-is-long-enough';
const SERVICE_SECRET = 'the secret of the services, which is long enough';
const caller = { tenant: 'shop', account: 'till-1', scopes: new Set<Scope>(['orders:read']) };

const told = (secret = SERVICE_SECRET): string => new SignedCallers(secret).sign(caller);
const sent = `Bearer ${ADMIN_KEY}`;

/** Whose tenant it is taken for, or why not. */
const taken = async (by: Authenticator, authorization?: string, header?: string): Promise<string> => {
  try {
    return (await by.callerOf(authorization, header)).tenant;
  } catch (error) {
    return (error as { code: string }).code;
  }
};

describe('who asks', () => {
  it('is known by what they send where callers come themselves, whatever they say of themselves', async () => {
    const by = new Authenticator({ ADMIN_KEY, SERVICE_SECRET, from: 'callers' });
    expect(await taken(by, undefined, told())).toBe('unauthenticated');
    expect(await taken(by, sent, told())).toBe('default');
    expect(by.canAskAgain(told())).toBe(true);
  });

  it('is known by what the gateway says where that alone asks, whatever they send', async () => {
    const by = new Authenticator({ ADMIN_KEY, SERVICE_SECRET, from: 'gateway' });
    expect(await taken(by, undefined, told())).toBe('shop');
    expect(await taken(by, sent)).toBe('unauthenticated');
    expect(await taken(by, sent, told('another secret, which is long enough as well'))).toBe('unauthenticated');
    expect(by.canAskAgain(told())).toBe(false);
  });

  it('is known by either where both come', async () => {
    const by = new Authenticator({ ADMIN_KEY, SERVICE_SECRET, from: 'either' });
    expect(await taken(by, undefined, told())).toBe('shop');
    expect(await taken(by, sent)).toBe('default');
    expect(await taken(by)).toBe('unauthenticated');
    const forged = told('another secret, which is long enough as well');
    expect(await taken(by, undefined, forged)).toBe('unauthenticated');
    expect([by.canAskAgain(told()), by.canAskAgain(forged), by.canAskAgain(undefined)]).toEqual([false, true, true]);
  });

  it('is anybody only where there is nothing to know them by', async () => {
    for (const from of ['callers', 'gateway', 'either'] as const) {
      expect(await taken(new Authenticator({ from }))).toBe('default');
      expect(await taken(new Authenticator({ from, ADMIN_KEY }))).toBe('unauthenticated');
    }
    // A gateway that asks nobody tells the services so, and they believe it and nobody else.
    const gateway = new Authenticator({ SERVICE_SECRET, from: 'callers' });
    const service = new Authenticator({ SERVICE_SECRET });
    expect(await taken(gateway)).toBe('default');
    expect(await taken(service)).toBe('unauthenticated');
    expect(await taken(service, undefined, gateway.toldAs(await gateway.callerOf(undefined, undefined)))).toBe(
      'default',
    );
  });

  it('is not looked for among keys that nobody keeps', async () => {
    const by = new Authenticator({ ADMIN_KEY, from: 'callers' });
    expect(await taken(by, `Bearer ck_${'0'.repeat(32)}_${'0'.repeat(64)}`)).toBe('unauthenticated');
  });
});
