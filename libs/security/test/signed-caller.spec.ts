import { describe, expect, it } from '@jest/globals';
import type { Scope } from '#contracts';
import { ServiceSecrets } from '#security';
import { SignedCallers } from '../src/signed-caller.js';

const caller = { tenant: 'shop', account: 'till-1', scopes: new Set<Scope>(['orders:read', 'operator']), keyId: 'k' };
const secret = 'a secret of more than thirty-two characters';
const secrets = new ServiceSecrets([secret]);

/** A gateway and a service, whose clocks are told what time it is. */
const two = () => {
  const clock = { gateway: 1_000_000, service: 1_000_000 };
  const gateway = new SignedCallers(secrets, () => clock.gateway);
  const service = new SignedCallers(secrets, () => clock.service);
  return { clock, gateway, service };
};

describe('a signed caller', () => {
  it('is read as it was told, and the same text for the same caller is used for ten seconds', () => {
    const { clock, gateway, service } = two();
    const text = gateway.sign(caller);
    expect(service.read(text)).toEqual(caller);
    expect(service.read(text)).toBe(service.read(text));
    clock.gateway += 9_999;
    expect(gateway.sign(caller)).toBe(text);
    clock.gateway += 1;
    expect(gateway.sign(caller)).not.toBe(text);
  });

  it('is good for a minute, by clocks that may differ by as much, remembered or not', () => {
    for (const [offMs, isGood] of [
      ...[
        [60_000, true],
        [60_001, false],
        [-60_000, true],
        [-60_001, false],
      ],
    ] as [number, boolean][]) {
      const { clock, gateway, service } = two();
      const text = gateway.sign(caller);
      clock.service += offMs;
      expect([offMs, service.read(text) !== undefined]).toEqual([offMs, isGood]);
      const known = two();
      known.service.read(text);
      known.clock.service += offMs;
      expect([offMs, known.service.read(text) !== undefined]).toEqual([offMs, isGood]);
    }
  });

  it('is refused when a character of it is another, or the secret is', () => {
    const { gateway, service } = two();
    const text = gateway.sign(caller);
    expect(new SignedCallers(new ServiceSecrets([`${secret}!`]), () => 1_000_000).read(text)).toBeUndefined();
    const [payload, mac] = text.split('.') as [string, string];
    // The last character of a base64 text has bits that say nothing.
    for (let at = 0; at < text.length - 1; at += 1) {
      if (at === payload.length) continue;
      const other = text[at] === 'A' ? 'B' : 'A';
      expect(service.read(text.slice(0, at) + other + text.slice(at + 1))).toBeUndefined();
    }
    for (const it of ['', '.', payload, `${payload}.`, `.${mac}`, `${text}.${mac}`, `${payload}.${mac}${mac}`])
      expect(service.read(it)).toBeUndefined();
  });
});
