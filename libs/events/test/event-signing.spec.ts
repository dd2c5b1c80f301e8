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

describe('an event that is signed', () => {
  it('is believed by whoever has the secret, also among others', () => {
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
    ['where it stands', { sequence: '3' }],
    ['what it follows on', { previous: '0' }],
    [
      'the tenant, or anything else that is told',
      { payload: Buffer.from('{"tenantid":"other","subject":"an order"}') },
    ],
    ['that it has nothing in it', { payload: new Uint8Array() }],
    ['where one field ends', { sequence: '21', previous: '' }],
  ])('is not believed where somebody has changed %s', (_, change) => {
    expect(signing.isRight(signing.sign(event), { ...event, ...change })).toBe(false);
  });

  it('is not believed because of what the secret signs elsewhere', () => {
    const head = JSON.stringify([event.subject, event.sequence, event.previous]);
    expect(signing.isRight(new ServiceSecrets([secret]).sign(head, event.payload), event)).toBe(false);
    for (const it of ['', 'x', signing.sign(event).slice(1)]) expect(signing.isRight(it, event)).toBe(false);
  });

  it('is counted where it is refused, and somebody is asked to look', async () => {
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
