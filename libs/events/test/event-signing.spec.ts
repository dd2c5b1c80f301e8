import { describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { ServiceSecrets } from '#security';
import { Metrics } from '#telemetry';
import { EventSigning, type Published } from '../src/event-signing.js';

Logger.overrideLogger(false);

const secret = 'known to all services, and to nobody else';
const signing = new EventSigning(new ServiceSecrets([secret]));
const event: Published = {
  ...{ subject: 'cleave.orders.3', sequence: '2', previous: '1' },
  payload: Buffer.from('{"tenantid":"shop","subject":"an order"}'),
};

describe('the signature of an event', () => {
  it('is valid with its secret, also as one of several, and with no other', () => {
    const signature = signing.sign(event);
    expect(signing.isRight(signature, event)).toBe(true);
    for (const [secrets, isRight] of [
      [['another one, which takes its place', secret], true],
      [['another one, which takes its place'], false],
      [[`${secret}.`], false],
    ] as [string[], boolean][])
      expect(new EventSigning(new ServiceSecrets(secrets)).isRight(signature, event)).toBe(isRight);
  });

  it.each<[string, Partial<Published>]>([
    ['the log or the part', { subject: 'cleave.orders.4' }],
    ['the sequence', { sequence: '3' }],
    ['the previous sequence', { previous: '0' }],
    ['the payload', { payload: Buffer.from('{"tenantid":"other","subject":"an order"}') }],
    ['the payload to nothing', { payload: new Uint8Array() }],
    ['the boundary between two fields', { sequence: '21', previous: '' }],
  ])('is invalid after a change of %s', (_, change) => {
    expect(signing.isRight(signing.sign(event), { ...event, ...change })).toBe(false);
  });

  it('is not interchangeable with other signatures by the same secret', () => {
    const head = JSON.stringify([event.subject, event.sequence, event.previous]);
    expect(signing.isRight(new ServiceSecrets([secret]).sign(head, event.payload), event)).toBe(false);
    for (const it of ['', 'x', signing.sign(event).slice(1)]) expect(signing.isRight(it, event)).toBe(false);
  });

  it('is counted in the metrics and reported when it is refused', async () => {
    const metrics = new Metrics();
    const it = new EventSigning(new ServiceSecrets([secret]), metrics);
    expect(it.hasRefusedLately).toBe(false);
    for (let times = 0; times < 3; times += 1) it.refuse('sales', event.subject);
    expect(it.hasRefusedLately).toBe(true);
    const { text } = await metrics.read();
    expect(text).toMatch(/^events_consumer_refused_total\{.*messaging_consumer_group_name="sales".*\} 3/m);
    await metrics.stop();
  });
});
