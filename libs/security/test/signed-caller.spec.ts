import { describe, expect, it } from '@jest/globals';
import type { Scope } from '#contracts';
import { ServiceSecrets } from '#security';
import { SignedCallers } from '../src/signed-caller.js';

const caller = { tenant: 'shop', account: 'till-1', scopes: new Set<Scope>(['orders:read', 'operator']), keyId: 'k' };
const secret = 'a secret of more than thirty-two characters';
const secrets = new ServiceSecrets([secret]);
const asked = { method: 'POST', url: '/orders' };

/** A gateway and a service whose clocks the test sets. */
const two = () => {
  const clock = { gateway: 1_000_000, service: 1_000_000 };
  const gateway = new SignedCallers(secrets, () => clock.gateway);
  const service = new SignedCallers(secrets, () => clock.service);
  return { clock, gateway, service };
};

describe('a signed caller', () => {
  it('is read by a service as the gateway signed it', () => {
    const { gateway, service } = two();
    const text = gateway.sign(caller, asked);
    expect(service.read(text, asked)).toEqual({ ...caller, isTold: true });
    // A payload is parsed once, even if it is signed for several requests.
    const again = gateway.sign(caller, { method: 'GET', url: '/orders' });
    expect(service.read(again, { method: 'GET', url: '/orders' })).toBe(service.read(text, asked));
  });

  it.each([
    ['another method', { method: 'GET', url: '/orders' }],
    ['another address', { method: 'POST', url: '/orders/x' }],
    ['another query', { method: 'POST', url: '/orders?dry=1' }],
    ['another spelling', { method: 'POST', url: '/Orders' }],
    ['the same text divided in another way', { method: 'POST/orders', url: '' }],
  ])('is not valid for another request: %s', (_, other) => {
    const { gateway, service } = two();
    const text = gateway.sign(caller, asked);
    expect(service.read(text, asked)).toBeDefined();
    expect(service.read(text, other)).toBeUndefined();
    expect(service.read(gateway.sign(caller, other), other)).toBeDefined();
  });

  it.each([
    ['/products/a%20b?x=%C3%BC', '/products/a%20b?x=%C3%BC'],
    ['/products/a"b{}|?x="<>"', '/products/a%22b%7B%7D|?x=%22%3C%3E%22'],
    ['/products/a\\b?x=\\', '/products/a%5Cb?x=\\'],
    ['http://shop.example/orders?limit=1', '/orders?limit=1'],
  ])('is valid for the same request with its URL as the gateway forwards it: %s', (url, passedOn) => {
    const { gateway, service } = two();
    expect(service.read(gateway.sign(caller, { method: 'GET', url }), { method: 'GET', url: passedOn })).toBeDefined();
  });

  it('is valid if the clock of the service differs by at most a minute', () => {
    for (const [offMs, isGood] of [
      ...[
        [60_000, true],
        [60_001, false],
        [-60_000, true],
        [-60_001, false],
      ],
    ] as [number, boolean][]) {
      const { clock, gateway, service } = two();
      const text = gateway.sign(caller, asked);
      expect(service.read(text, asked)).toBeDefined();
      clock.service += offMs;
      expect([offMs, service.read(text, asked) !== undefined]).toEqual([offMs, isGood]);
    }
  });

  it('is refused if any character of it, or the secret, is different', () => {
    const { gateway, service } = two();
    const text = gateway.sign(caller, asked);
    const strange = new SignedCallers(new ServiceSecrets([`${secret}!`]), () => 1_000_000);
    expect(strange.read(text, asked)).toBeUndefined();
    const [payload, at, mac] = text.split('.') as [string, string, string];
    // The last character of a base64 text has unused bits.
    for (let place = 0; place < text.length - 1; place += 1) {
      if (text[place] === '.') continue;
      const other = text[place] === '9' ? '8' : '9';
      expect(service.read(text.slice(0, place) + other + text.slice(place + 1), asked)).toBeUndefined();
    }
    for (const it of [
      '',
      '..',
      payload,
      `${payload}.${at}`,
      `${payload}.${at}.`,
      `.${at}.${mac}`,
      `${payload}..${mac}`,
    ])
      expect(service.read(it, asked)).toBeUndefined();
    for (const it of [`${text}.${mac}`, `${text}${mac}`, `${payload}.NaN.${mac}`, `${payload}.${at}0.${mac}`])
      expect(service.read(it, asked)).toBeUndefined();
  });
});
