import { describe, expect, it } from '@jest/globals';
import { ServiceSecrets } from '#security';
import { Signing } from '../src/signing.js';
import type { WireRequest } from '../src/wire.js';

const secret = 'thirty-two characters, or a few more';
const signingWith = (...secrets: string[]): Signing => new Signing(new ServiceSecrets(secrets));
const signing = signingWith(secret);
const meta = { tenant: 'acme', idempotencyKey: 'k', traceparent: '00-a-b-01', remainingMs: 1_000 };

const signed = (): { pattern: string; request: WireRequest } => {
  const body = '{"id":"x"}';
  return {
    pattern: 'order.place',
    request: { meta: { ...meta, ...signing.sign('order.place', meta, body) }, body },
  };
};

describe('a signed message', () => {
  it('is accepted only with the same secret, even if less time is left than when it was signed', () => {
    const { pattern, request } = signed();
    signingWith(secret).check(pattern, { ...request, meta: { ...request.meta, remainingMs: 1 } });
    expect(() => signingWith(`${secret}.`).check(pattern, request)).toThrow('another secret');
  });

  it.each<[string, (sent: ReturnType<typeof signed>) => void]>([
    ['the operation', (sent) => void (sent.pattern = 'order.cancel')],
    ['the body', ({ request }) => void (request.body = '{"id":"y"}')],
    ['the tenant', ({ request }) => void (request.meta.tenant = 'other')],
    ['the key', ({ request }) => void delete request.meta.idempotencyKey],
    ['the trace', ({ request }) => void delete request.meta.traceparent],
    ['when it was signed', ({ request }) => void (request.meta.signedAt! += 1)],
    [
      'a bit of the signature',
      ({ request }) => void (request.meta.signature = `A${request.meta.signature!.slice(1)}B`),
    ],
    ['where one field ends', ({ request }) => Object.assign(request.meta, { tenant: 'acmek', idempotencyKey: '' })],
  ])('is rejected after a change of %s', (_, change) => {
    const sent = signed();
    change(sent);
    expect(() => signing.check(sent.pattern, sent.request)).toThrow('another secret');
  });

  it('is rejected without its signature, or long after it was signed', () => {
    const { pattern, request } = signed();
    expect(() => signing.check(pattern, { ...request, meta })).toThrow('not signed');
    const early = new Signing(new ServiceSecrets([secret]), () => Date.now() - 180_000);
    const old = { ...meta, ...early.sign(pattern, meta, request.body) };
    expect(() => signing.check(pattern, { ...request, meta: old })).toThrow('too long ago');
  });
});
