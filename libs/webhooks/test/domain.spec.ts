import { randomUUID } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import { Webhook } from 'standardwebhooks';
import { SeededRandom, independentBits } from '#testing';
import { messageOf } from '../src/domain/message.js';
import { isStruggling, retryDelaysMs, verdictOn, type Answer } from '../src/domain/retries.js';
import { newSecret, signedHeaders } from '../src/domain/signature.js';
import { Slots } from '../src/domain/slots.js';
import { placed } from './webhooks-under-test.js';

const random = new SeededRandom();
const now = new Date('2026-01-02T03:04:05.000Z');

describe('a signature', () => {
  it('matches the example of the specification', () => {
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
    const headers = signedHeaders(
      'msg_p5jXN8AQM9LWM0D4loKWxJek',
      '{"test": 2432232314}',
      [secret],
      new Date(1614265330_000),
    );
    expect(headers).toEqual({
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    });
  });

  it('is verified by the official library with each of the secrets', () => {
    const secrets = [newSecret(), newSecret(), newSecret()];
    const body = JSON.stringify({ text: 'ä "quoted" 🦊 \u0000', number: random.next() });
    const headers = signedHeaders('msg_1', body, secrets, new Date());
    expect(headers['webhook-signature']!.split(' ')).toHaveLength(3);
    for (const secret of secrets) expect(new Webhook(secret).verify(body, headers)).toEqual(JSON.parse(body));
    expect(() => new Webhook(newSecret()).verify(body, headers)).toThrow();
    expect(() => new Webhook(secrets[0]!).verify(`${body} `, headers)).toThrow();
  });

  it('uses a secret of 32 random bytes', () => {
    const [one, other] = [newSecret(), newSecret()];
    expect(one).not.toBe(other);
    expect(one).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    const drawn = Array.from({ length: 380 }, () => Buffer.from(newSecret().slice('whsec_'.length), 'base64'));
    expect(independentBits(drawn.map((it) => it.toString('hex')))).toBe(256);
  });
});

describe('an attempt', () => {
  const answered = (status: number | null, retryAfter: string | null = null): Answer => ({
    ...{ status, retryAfter, snippet: null, error: status === 200 ? null : 'failed' },
  });
  const verdict = (answer: Answer, failures = 0) => verdictOn(answer, failures, retryDelaysMs, now, random.next());

  it('that succeeds is the last one', () => {
    expect(verdict(answered(200), 3)).toEqual({ status: 'delivered', waitMs: 0, disabledFor: null });
  });

  it('that fails is retried with growing, jittered delays, and not after the last delay', () => {
    expect(retryDelaysMs.map((it) => it / 1_000)).toEqual([
      5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400,
    ]);
    retryDelaysMs.forEach((delayMs, failures) => {
      const waits = Array.from({ length: 100 }, () => verdict(answered(null), failures));
      expect(waits.every(({ status }) => status === 'pending')).toBe(true);
      const ms = waits.map(({ waitMs }) => waitMs);
      expect(Math.min(...ms)).toBeGreaterThanOrEqual(delayMs * 0.9);
      expect(Math.max(...ms)).toBeLessThanOrEqual(delayMs * 1.1);
      expect(new Set(ms).size).toBeGreaterThan(10);
    });
    expect(verdict(answered(500), retryDelaysMs.length)).toMatchObject({ status: 'failed' });
    expect(verdict(answered(500), retryDelaysMs.length + 1)).toMatchObject({ status: 'failed' });
  });

  it.each([
    [429, '120', 120_000],
    [503, '120', 120_000],
    [503, 'Fri, 02 Jan 2026 03:14:05 GMT', 600_000],
    [429, '9999999', 24 * 3_600_000],
    [503, 'Fri, 02 Jan 2099 03:14:05 GMT', 24 * 3_600_000],
  ])('answered %s with Retry-After %s is retried after that time, at most a day', (status, retryAfter, waitMs) => {
    expect(verdict(answered(status, retryAfter))).toMatchObject({ status: 'pending', waitMs });
  });

  it.each([
    [500, '120'],
    [429, '1'],
    [429, '-5'],
    [429, 'soon'],
    [503, 'Fri, 02 Jan 2026 03:04:00 GMT'],
    [503, '99999999999999999999'],
  ])('answered %s with Retry-After %s is retried after the usual delay', (status, retryAfter) => {
    expect(verdict(answered(status, retryAfter)).waitMs).toBeLessThanOrEqual(5_500);
  });

  it('marks the endpoint as struggling without an answer or at 429 or 5xx, not at other statuses', () => {
    expect([null, 429, 500, 503].map((it) => isStruggling(answered(it)))).toEqual([true, true, true, true]);
    expect([200, 302, 400, 404, 410].map((it) => isStruggling(answered(it)))).toEqual(Array(5).fill(false));
  });

  it('answered 410 disables the endpoint and leaves the delivery pending, unless it was the last attempt', () => {
    const disabledFor = 'it answered 410 Gone';
    expect(verdict(answered(410))).toMatchObject({ status: 'pending', disabledFor });
    expect(verdict(answered(410), retryDelaysMs.length)).toMatchObject({ status: 'failed', disabledFor });
  });
});

describe('a message', () => {
  it('has an id that is stable for its event and differs between events', () => {
    const event = placed('t');
    const { messageId } = messageOf(event);
    expect(messageId).toMatch(/^msg_[\w-]{32}$/);
    expect(messageOf({ ...event, data: {} }).messageId).toBe(messageId);
    expect(messageOf({ ...event, source: '/stock' }).messageId).not.toBe(messageId);
    expect(messageOf({ ...event, source: `/orders${event.id}`, id: '' }).messageId).not.toBe(messageId);
  });

  it('consists of type, timestamp and data', () => {
    const { payload } = messageOf(placed('t', { data: { order_id: 'o', text: '\0 \ud800' } }));
    expect(JSON.parse(payload)).toEqual({
      type: 'order.placed',
      timestamp: '2026-01-02T03:04:05.678Z',
      data: { order_id: 'o', text: '\0 \ud800' },
    });
  });

  it('that is too large omits the lines first, then other large fields', () => {
    const lines = Array.from({ length: 2_000 }, () => ({ product_id: randomUUID() }));
    const dataOf = (data: Record<string, unknown>): unknown => {
      const { payload } = messageOf(placed('t', { data }));
      expect(Buffer.byteLength(payload)).toBeLessThanOrEqual(20_000);
      return (JSON.parse(payload) as { data: unknown }).data;
    };
    const metadata = { text: 'ä'.repeat(6_000) };
    expect(dataOf({ order_id: 'o', metadata })).toEqual({ order_id: 'o', metadata });
    expect(dataOf({ order_id: 'o', metadata, lines })).toEqual({ order_id: 'o', metadata, truncated: true });
    // `remaining` has to stay: readers must know that this is not a cancellation of the whole order.
    const nested = { order: { reference: 'r', lines }, details: { remaining: true, lines } };
    expect(dataOf(nested)).toEqual({ order: { reference: 'r' }, details: { remaining: true }, truncated: true });
    const adjustments = Array.from({ length: 100 }, () => ({ label: 'x'.repeat(500) }));
    expect(dataOf({ order_id: 'o', metadata, adjustments, lines })).toEqual({
      order_id: 'o',
      metadata,
      truncated: true,
    });
    expect(dataOf({ truncated: 'x'.repeat(30_000) })).toEqual({ truncated: true });
  });
});

describe('slots', () => {
  it('are limited per endpoint and in total', () => {
    const slots = new Slots(3, 5);
    for (const id of ['a', 'a', 'a', 'b']) slots.take('shop', id);
    expect([slots.free, ...slots.exceptions]).toEqual([1, ['a', 0], ['b', 2]]);
    for (const id of ['a', 'a', 'a', 'b']) slots.giveBack('shop', id, false);
    expect([slots.free, ...slots.exceptions]).toEqual([5]);
  });

  it('are reduced to one for a struggling endpoint until it recovers', () => {
    const slots = new Slots(3, 5);
    for (const id of ['a', 'a']) slots.take('shop', id);
    slots.giveBack('shop', 'a', true);
    expect([...slots.exceptions]).toEqual([['a', 0]]);
    slots.giveBack('shop', 'a', true);
    expect([...slots.exceptions]).toEqual([['a', 1]]);
    slots.take('shop', 'a');
    slots.giveBack('shop', 'a', false);
    expect([...slots.exceptions]).toEqual([]);
  });

  it('are limited for a tenant to as many as it leaves free for others', () => {
    const slots = new Slots(8, 16);
    const take = (tenant: string): number => {
      const room = slots.tenants.get(tenant) ?? slots.ofTenant;
      for (let times = 0; times < room; times += 1) slots.take(tenant, `of ${tenant}`);
      return room;
    };
    expect(['a', 'a', 'b', 'b', 'c', 'd', 'e', 'f'].map(take)).toEqual([8, 0, 4, 0, 2, 1, 1, 0]);
    for (let times = 0; times < 8; times += 1) slots.giveBack('a', 'of a', false);
    expect([...slots.tenants]).toEqual([
      ['b', 2],
      ['c', 3],
      ['d', 4],
      ['e', 4],
    ]);
    expect([slots.free, take('f')]).toEqual([8, 4]);
  });

  it('remember at most as many struggling endpoints as there are slots', () => {
    const slots = new Slots(1, 2);
    for (const id of ['a', 'b', 'c']) {
      slots.take('shop', id);
      slots.giveBack('shop', id, true);
    }
    expect([...slots.exceptions.keys()]).toEqual(['b', 'c']);
  });
});
