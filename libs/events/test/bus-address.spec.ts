import { describe, expect, it } from '@jest/globals';
import { ConfigurationError, readEnvironment } from '#config';
import { eventBus } from '#events';

const faults = (text: string): string[] => eventBus.safeParse(text).error?.issues.map(({ message }) => message) ?? [];

describe('the address of the event bus', () => {
  it.each([
    [undefined, { scheme: 'postgres' }],
    ['postgres:', { scheme: 'postgres' }],
    ['nats://bus:4222', { scheme: 'nats', servers: ['bus:4222'] }],
    [
      'nats://10.0.0.1:4222,[::1]:4223, bus-2.local:4224',
      { scheme: 'nats', servers: ['10.0.0.1:4222', '[::1]:4223', 'bus-2.local:4224'] },
    ],
    ['nats://me:s%40c,ret@a:1,b:2', { scheme: 'nats', servers: ['a:1', 'b:2'], user: 'me', pass: 's@c,ret' }],
    ['nats://t0ken@a:1', { scheme: 'nats', servers: ['a:1'], token: 't0ken' }],
  ])('reads %s', (text, expected) => {
    expect(eventBus.parse(text)).toStrictEqual(expected);
  });

  it.each([
    ...['', 'bus:4222', 'postgres://h/db', 'nats://', 'nats://bus', 'nats://bus:0', 'nats://bus:65536', 'nats://a:1,'],
    ...['nats://::1:4222', 'nats://a:1/x', 'nats://@a:1', 'nats://a:b:c@h:1', 'nats://%zz@h:1', 'tls://a:1'],
  ])('refuses %j', (text) => {
    expect(faults(text)).toHaveLength(1);
    expect(faults(text)[0]).toMatch(/must be postgres: or nats:\/\//);
  });

  it('names the server that is wrong', () => {
    expect(faults('nats://a:1,b')[0]).toContain('server 2 is not host:port');
  });

  it.each([
    'nats://me:hunter2',
    'nats://me:hunter2@',
    'nats://me:hunter2@h:1,x',
    'nats://me:x/hunter2@h',
    'x:hunter2@h',
  ])('does not print a possible password in the error about %s', (text) => {
    try {
      readEnvironment({ EVENTS_AT: eventBus }, { EVENTS_AT: text });
      throw new Error('it was taken');
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigurationError);
      expect((error as Error).message).not.toContain('hunter2');
    }
  });
});
