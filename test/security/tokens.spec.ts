import { createHmac } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { scopes } from '#contracts';
import { Authenticator } from '#security';
import { Issuer, audience } from './issuer.js';

let issuer: Issuer;
let other: Issuer;
let authenticator: Authenticator;
beforeAll(async () => {
  [issuer, other] = await Promise.all([Issuer.start(), Issuer.start()]);
  authenticator = new Authenticator({ OIDC_ISSUER: issuer.url, OIDC_AUDIENCE: audience });
});
afterAll(async () => {
  await Promise.all([issuer.stop(), other.stop()]);
});

const inSeconds = (seconds: number): number => Math.floor(Date.now() / 1_000) + seconds;
const callerOf = async (token: string, by = authenticator) => by.callerOf(`Bearer ${token}`, undefined);
const encoded = (part: object): string => Buffer.from(JSON.stringify(part)).toString('base64url');
const usual = { tenant: 'shop', scope: 'orders:read orders:write' };
/** A token signed with HS256 and the public key as the secret, which anybody could make. */
const signedWithPublicKey = async (of: Issuer): Promise<string> => {
  const said = `${encoded({ alg: 'HS256', kid: 'key-1' })}.${(await of.token(usual)).split('.')[1]}`;
  return `${said}.${createHmac('sha256', await of.publicKeyText())
    .update(said)
    .digest('base64url')}`;
};

/** Advances the monotonic clock by `minutes`, and the wall clock by `byTheClock`. */
const minutesLater = (minutes: number, byTheClock = minutes): { end(): void } => {
  const { now } = Date;
  const since = performance.now.bind(performance);
  const spies = [
    jest.spyOn(Date, 'now').mockImplementation(() => now() + byTheClock * 60_000),
    jest.spyOn(performance, 'now').mockImplementation(() => since() + minutes * 60_000),
  ];
  return { end: () => spies.forEach((it) => it.mockRestore()) };
};

/** Both clocks stand still, however slow the machine is. */
const clockStopped = (): { end(): void } => {
  const spies = [
    jest.spyOn(Date, 'now').mockReturnValue(Date.now()),
    jest.spyOn(performance, 'now').mockReturnValue(performance.now()),
  ];
  return { end: () => spies.forEach((it) => it.mockRestore()) };
};

describe('a token', () => {
  it('carries tenant, account and scopes', async () => {
    const token = await issuer.token({ ...usual, sub: 'till-1' });
    const caller = await callerOf(token);
    expect(caller).toMatchObject({
      tenant: 'shop',
      account: 'till-1',
      scopes: new Set(['orders:read', 'orders:write']),
    });
    // Ten minutes, plus the tolerated clock skew of 30 seconds.
    expect(Math.abs(caller.validUntil! - performance.now() - 630_000)).toBeLessThan(5_000);
    // The second time it comes from the cache, synchronously.
    expect(authenticator.callerOf(`Bearer ${token}`, undefined)).toBe(caller);
  });

  it('maps to a distinct account for each subject, however long', async () => {
    const long = 'x'.repeat(128);
    const accounts = new Map<string, string>();
    for (const sub of ['one', long, `${long}y`, `${long}z`, '\0', 'x'.repeat(2_000)])
      accounts.set(sub, (await callerOf(await issuer.token({ ...usual, sub }))).account);
    expect([accounts.get('one'), accounts.get(long)]).toEqual(['one', long]);
    // Nor can a subject be chosen that equals the hash of another one.
    const named = accounts.get(`${long}y`)!;
    accounts.set(named, (await callerOf(await issuer.token({ ...usual, sub: named }))).account);
    expect(new Set(accounts.values()).size).toBe(accounts.size);
    expect([...accounts.values()]).not.toContain('default');
    for (const account of accounts.values()) expect(account.length).toBeLessThanOrEqual(128);
    // Another process derives the same account.
    const by = new Authenticator({ OIDC_ISSUER: issuer.url, OIDC_AUDIENCE: audience });
    expect((await callerOf(await issuer.token({ ...usual, sub: `${long}y` }), by)).account).toBe(named);
  });

  it('may carry scopes in scp, as list or text, of which unknown ones are ignored', async () => {
    for (const scp of ['orders:read openid operator', ['orders:read', 'openid', 'operator']])
      expect((await callerOf(await issuer.token({ tenant: 'shop', scp }))).scopes).toEqual(new Set(['orders:read']));
    expect((await callerOf(await issuer.token({ tenant: 'shop' }))).scopes).toEqual(new Set());
  });

  it('may carry the tenant in another claim', async () => {
    const by = new Authenticator({
      OIDC_ISSUER: issuer.url,
      OIDC_AUDIENCE: audience,
      OIDC_TENANT_CLAIM: 'https://x/org',
    });
    expect((await callerOf(await issuer.token({ 'https://x/org': 'shop' }), by)).tenant).toBe('shop');
    await expect(callerOf(await issuer.token(usual), by)).rejects.toMatchObject({ code: 'unauthenticated' });
  });

  it.each<[string, () => Promise<string>]>([
    ['has expired', () => issuer.token({ ...usual, exp: inSeconds(-60) })],
    ['never expires', () => issuer.token({ ...usual, exp: undefined })],
    ['is not valid yet', () => issuer.token({ ...usual, nbf: inSeconds(120) })],
    ['is for another audience', () => issuer.token({ ...usual, aud: 'somebody-else' })],
    ['is for nobody', () => issuer.token({ ...usual, aud: undefined })],
    ['says another issuer', () => issuer.token({ ...usual, iss: other.url })],
    ['is signed by another issuer', () => other.token({ ...usual, iss: issuer.url })],
    ['has no subject', () => issuer.token({ ...usual, sub: undefined })],
    ['has an empty subject', () => issuer.token({ ...usual, sub: '' })],
    ['names no tenant', () => issuer.token({ scope: usual.scope })],
    ['names an invalid tenant', () => issuer.token({ ...usual, tenant: '../default' })],
    ['is not signed', async () => `${encoded({ alg: 'none' })}.${(await issuer.token(usual)).split('.')[1]}.`],
    ['is signed with the public key as if it were a secret', () => signedWithPublicKey(issuer)],
    [
      'has claims that were not signed',
      async () => {
        const [header, , signature] = (await issuer.token(usual)).split('.');
        const claims = { ...usual, scope: scopes.join(' '), iss: issuer.url, aud: audience, exp: inSeconds(600) };
        return `${header}.${encoded(claims)}.${signature}`;
      },
    ],
    [
      'names its own key set',
      async () => {
        const [, claims] = (await other.token({ ...usual, iss: issuer.url })).split('.');
        const header = encoded({ alg: 'ES256', jku: `${other.url}/keys`, kid: 'key-1' });
        return `${header}.${claims}.${(await other.token(usual)).split('.')[2]}`;
      },
    ],
  ])('is refused when it %s', async (_how, token) => {
    await expect(callerOf(await token())).rejects.toMatchObject({ code: 'unauthenticated' });
  });

  it('may be signed with RSA or an elliptic curve, but is accepted only with the algorithm of its key', async () => {
    const rsa = await Issuer.start('RS256');
    let time: { end(): void } | undefined;
    try {
      const by = new Authenticator({ OIDC_ISSUER: rsa.url, OIDC_AUDIENCE: audience });
      const token = await rsa.token({ ...usual, sub: 'till-1' });
      expect(JSON.parse(Buffer.from(token.split('.')[0]!, 'base64url').toString())).toMatchObject({ alg: 'RS256' });
      expect(await callerOf(token, by)).toMatchObject({ tenant: 'shop', account: 'till-1' });
      const [, claims, signature] = token.split('.');
      await rsa.addKey();
      const forged = [
        await signedWithPublicKey(rsa),
        `${encoded({ alg: 'none', kid: 'key-1' })}.${claims}.`,
        // With another algorithm, and with the id of another key.
        ...['PS256', 'RS512', 'ES256'].map((alg) => `${encoded({ alg, kid: 'key-1' })}.${claims}.${signature}`),
        `${encoded({ alg: 'RS256', kid: 'key-2' })}.${claims}.${signature}`,
        `${encoded({ alg: 'RS256', kid: 'key-1' })}.${encoded({ ...usual, sub: 'till-2' })}.${signature}`,
      ];
      for (const it of forged) await expect(callerOf(it, by)).rejects.toMatchObject({ code: 'unauthenticated' });
      time = minutesLater(0.1);
      expect(await callerOf(await rsa.token({ ...usual, sub: 'till-2' }), by)).toMatchObject({ account: 'till-2' });
      expect(await callerOf(await rsa.token({ ...usual, sub: 'till-3' }), by)).toMatchObject({ account: 'till-3' });
    } finally {
      time?.end();
      await rsa.stop();
    }
  });

  it('is taken from the cache for no longer than it is valid', async () => {
    const token = await issuer.token({ ...usual, sub: 'soon over', exp: inSeconds(20) });
    const caller = await callerOf(token);
    expect(authenticator.callerOf(`Bearer ${token}`, undefined)).toBe(caller);
    const time = minutesLater(21 / 60);
    try {
      const again = authenticator.callerOf(`Bearer ${token}`, undefined);
      expect(again).toBeInstanceOf(Promise);
      await again;
    } finally {
      time.end();
    }
  });

  it('is accepted when it is signed with a key that the issuer added later', async () => {
    const growing = await Issuer.start();
    const by = new Authenticator({ OIDC_ISSUER: growing.url, OIDC_AUDIENCE: audience });
    const tokens = () => Promise.all(['one', 'two'].map((sub) => growing.token({ ...usual, sub })));
    let time = clockStopped();
    try {
      const [first, before] = await tokens();
      await callerOf(first!, by);
      await growing.addKey();
      const signed = await tokens();
      // Keys are not fetched again at once, however many tokens name unknown ones.
      const { asked } = growing;
      for (const it of signed) await expect(callerOf(it, by)).rejects.toMatchObject({ code: 'unauthenticated' });
      expect(growing.asked).toBe(asked);
      time.end();
      time = minutesLater(0.1);
      for (const it of [...signed, before!]) expect((await callerOf(it, by)).tenant).toBe('shop');
      expect(growing.asked).toBe(asked + 1);
    } finally {
      time.end();
      await growing.stop();
    }
  });

  it('fails with unavailable, not unauthenticated, while the issuer is gone', async () => {
    const gone = await Issuer.start();
    const by = new Authenticator({ OIDC_ISSUER: gone.url, OIDC_AUDIENCE: audience });
    const token = await gone.token(usual);
    await gone.stop();
    await expect(callerOf(token, by)).rejects.toMatchObject({ code: 'unavailable' });
    await expect(callerOf(token, by)).rejects.toMatchObject({ code: 'unavailable' });
  });

  it('makes a failed issuer be asked again only after a while, and an invalid token never', async () => {
    const away = await Issuer.start();
    away.keysAt = 'nowhere';
    const by = new Authenticator({ OIDC_ISSUER: away.url, OIDC_AUDIENCE: audience });
    try {
      const notForAnIssuer = [
        'x',
        'a.b.c',
        'ck_1_2',
        `${encoded({ alg: 'none' })}.e30.`,
        await signedWithPublicKey(away),
      ];
      for (const it of notForAnIssuer)
        await expect(callerOf(it, by)).rejects.toMatchObject({ code: 'unauthenticated' });
      expect(away.asked).toBe(0);
      const refused = async () => {
        for (const sub of ['one', 'two', 'three'])
          await expect(callerOf(await away.token({ ...usual, sub }), by)).rejects.toMatchObject({
            code: 'unavailable',
          });
      };
      await refused();
      expect(away.asked).toBe(1);
      away.keysAt = undefined;
      await refused();
      const time = minutesLater(1, 0);
      try {
        expect((await callerOf(await away.token(usual), by)).tenant).toBe('shop');
      } finally {
        time.end();
      }
    } finally {
      await away.stop();
    }
  });

  it('is not verified with keys fetched over plain HTTP from another host', async () => {
    const careless = await Issuer.start();
    // This address leads to the issuer too, but is not recognised as loopback.
    careless.keysAt = `${careless.url.replace('127.0.0.1', '0.0.0.0')}/keys`;
    const by = new Authenticator({ OIDC_ISSUER: careless.url, OIDC_AUDIENCE: audience });
    try {
      await expect(callerOf(await careless.token(usual), by)).rejects.toMatchObject({ code: 'unavailable' });
      expect(careless.asked).toBe(1);
    } finally {
      await careless.stop();
    }
  });

  it.each<[string, (careless: Issuer) => void]>([
    ['names another issuer', (careless) => (careless.name = other.url)],
    ['was redirected', (careless) => (careless.movedTo = `${careless.url}/.well-known/elsewhere`)],
  ])('is not verified with keys of a configuration that %s', async (_how, prepare) => {
    const careless = await Issuer.start();
    prepare(careless);
    const by = new Authenticator({ OIDC_ISSUER: careless.url, OIDC_AUDIENCE: audience });
    try {
      await expect(callerOf(await careless.token(usual), by)).rejects.toMatchObject({ code: 'unavailable' });
      expect(careless.asked).toBe(1);
    } finally {
      await careless.stop();
    }
  });

  it('is verified with the cached keys for an hour while the issuer is gone', async () => {
    const gone = await Issuer.start();
    const by = new Authenticator({ OIDC_ISSUER: gone.url, OIDC_AUDIENCE: audience });
    const token = (sub: string) => gone.token({ ...usual, sub, exp: inSeconds(10_000) });
    await callerOf(await token('one'), by);
    const [two, three, late] = await Promise.all([token('two'), token('three'), token('late')]);
    await gone.addKey();
    const unknown = await token('four');
    await gone.stop();
    const { now } = Date;
    const clock = jest.spyOn(Date, 'now');
    try {
      // Keys are fetched again after ten minutes.
      clock.mockImplementation(() => now() + 11 * 60_000);
      expect((await callerOf(two, by)).account).toBe('two');
      await expect(callerOf(unknown, by)).rejects.toMatchObject({ code: 'unavailable' });
      await expect(callerOf(`${two}x`, by)).rejects.toMatchObject({ code: 'unauthenticated' });
      clock.mockImplementation(() => now() + 59 * 60_000);
      expect((await callerOf(late, by)).account).toBe('late');
      clock.mockImplementation(() => now() + 61 * 60_000);
      await expect(callerOf(three, by)).rejects.toMatchObject({ code: 'unavailable' });
    } finally {
      clock.mockRestore();
    }
  });

  it('is verified at once with the cached keys while the issuer hangs, and refused if none of them fits', async () => {
    const hanging = await Issuer.start();
    await hanging.addKey();
    const by = new Authenticator({ OIDC_ISSUER: hanging.url, OIDC_AUDIENCE: audience });
    const token = (sub: string) => hanging.token({ ...usual, sub, exp: inSeconds(10_000) });
    const subjects = ['two', 'three', 'four'];
    const tokens = new Map(await Promise.all(subjects.map(async (sub) => [sub, await token(sub)] as const)));
    await callerOf(await token('one'), by);
    hanging.hangs = true;
    // A request to the issuer is given up only after this time.
    const hangsMs = 5_000;
    const { now } = Date;
    const clock = jest.spyOn(Date, 'now').mockImplementation(() => now() + 11 * 60_000);
    try {
      for (const [sub, signed] of tokens) {
        const begun = performance.now();
        expect((await callerOf(signed, by)).account).toBe(sub);
        expect(performance.now() - begun).toBeLessThan(hangsMs);
        // Long enough for the request to the issuer to time out and be repeated.
        await sleep(3_000);
      }
      // The header names no key id, and two keys have this algorithm.
      const ofNoKey = [{ alg: 'ES256' }, { ...usual, iss: hanging.url, aud: audience, exp: inSeconds(600) }].map(
        encoded,
      );
      const begun = performance.now();
      await expect(callerOf([...ofNoKey, 'c2ln'].join('.'), by)).rejects.toMatchObject({ code: 'unauthenticated' });
      expect(performance.now() - begun).toBeLessThan(hangsMs);
      await hanging.addKey();
      await expect(callerOf(await token('five'), by)).rejects.toMatchObject({ code: 'unavailable' });
      hanging.hangs = false;
      await sleep(5_200);
      expect((await callerOf(await token('six'), by)).account).toBe('six');
    } finally {
      clock.mockRestore();
      await hanging.stop();
    }
  });

  describe('signed with a withdrawn key', () => {
    let careful: Issuer;
    let by: Authenticator;
    let time: { end(): void } | undefined;
    let together: string[];
    const tokens = (...subjects: string[]) =>
      Promise.all(subjects.map((sub) => careful.token({ ...usual, sub, exp: inSeconds(10_000) })));
    const outcomes = () =>
      Promise.all(
        together.map((token) =>
          callerOf(token, by).then(
            () => 'let in',
            (error: unknown) => (error as { code: string }).code,
          ),
        ),
      );
    const refused = Array.from({ length: 3 }, () => 'unauthenticated');
    beforeEach(async () => {
      careful = await Issuer.start();
      by = new Authenticator({ OIDC_ISSUER: careful.url, OIDC_AUDIENCE: audience });
      const [first, ...others] = await tokens('one', 'two', 'three', 'four');
      together = others;
      await callerOf(first!, by);
    });
    afterEach(async () => {
      time?.end();
      await careful.stop();
    });

    it('is refused 20 minutes later, even if several arrive at once after a period without requests', async () => {
      careful.withdrawKey();
      time = minutesLater(21);
      expect(await outcomes()).toEqual(refused);
    });

    it('gets the same answer as others that arrive at the same time', async () => {
      careful.withdrawKey();
      time = minutesLater(11);
      expect(new Set(await outcomes()).size).toBe(1);
    });

    it('is refused after an outage of the issuer as well', async () => {
      // The unknown key makes the authenticator ask the issuer and wait.
      await careful.addKey();
      const [unknown] = await tokens('five');
      time = minutesLater(1);
      careful.hangs = true;
      await expect(callerOf(unknown!, by)).rejects.toMatchObject({ code: 'unavailable' });
      time.end();
      careful.hangs = false;
      careful.withdrawKey();
      time = minutesLater(31);
      expect(await outcomes()).toEqual(refused);
    });

    it('is refused even if the clock was set back', async () => {
      careful.withdrawKey();
      time = minutesLater(21, -60);
      expect(await outcomes()).toEqual(refused);
    });
  });

  it('is accepted when signed with a new key, even if the clock was set back', async () => {
    const careful = await Issuer.start();
    const by = new Authenticator({ OIDC_ISSUER: careful.url, OIDC_AUDIENCE: audience });
    await callerOf(await careful.token(usual), by);
    await careful.addKey();
    const token = await careful.token({ ...usual, sub: 'two' });
    const time = minutesLater(1, -60);
    try {
      expect((await callerOf(token, by)).account).toBe('two');
    } finally {
      time.end();
      await careful.stop();
    }
  });
});
