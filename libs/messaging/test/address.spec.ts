import { globSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { address, addressText, balancePolicy, listenAddress } from '../src/index.js';

const faults = (text: string, schema = address): string[] =>
  schema.safeParse(text).error?.issues.map(({ message }) => message) ?? [];

describe('an address', () => {
  it.each([
    ['in-process:', { scheme: 'in-process' }],
    ['tcp://inventory:4001', { scheme: 'tcp', endpoints: [{ host: 'inventory', port: 4001 }] }],
    [
      'tcp://10.0.0.1:4001,[::1]:4002, inventory-2.local:4003',
      {
        scheme: 'tcp',
        endpoints: [
          { host: '10.0.0.1', port: 4001 },
          { host: '::1', port: 4002 },
          { host: 'inventory-2.local', port: 4003 },
        ],
      },
    ],
    ['redis://cache:6379', { scheme: 'redis', url: 'redis://cache:6379' }],
    ['nats://bus:4222', { scheme: 'nats', servers: ['bus:4222'] }],
    ['nats://me:s%40cret@a:1,[::1]:2', { scheme: 'nats', servers: ['a:1', '[::1]:2'], user: 'me', pass: 's@cret' }],
    ['redis://me:s%40cret@[::1]:6379/2', { scheme: 'redis', url: 'redis://me:s%40cret@[::1]:6379/2' }],
    ['rediss://me:s%40cret@queue:6379', { scheme: 'redis', url: 'rediss://me:s%40cret@queue:6379' }],
  ])('reads %s', (text, expected) => {
    expect(address.parse(text)).toStrictEqual(expected);
  });

  it.each([
    '',
    'inventory:4001',
    'tcp://',
    'tcp://inventory',
    'tcp://inventory:0',
    'tcp://inventory:65536',
    'tcp://::1:4001',
    'tcp://a:1,',
    'tcp://user@a:1',
    'redis://',
    'redis://h:6379/one',
    'redis://h:6379/0?x=1',
    'http://h:1',
    'nats://',
    'nats://bus',
    'nats://bus:0',
    'nats://a:1,',
    'nats://a:1/x',
    'nats://@a:1',
  ])('refuses %j', (text) => {
    expect(faults(text)).toHaveLength(1);
  });

  it('is rejected with the supported schemes, or with the part that is not host:port', () => {
    expect(faults('amqp://localhost:5672')[0]).toMatch(/in-process:.*tcp:\/\/.*redis:\/\/.*nats:\/\//);
    expect(faults('tcp://inventory')[0]).toContain('"inventory" is not host:port');
  });

  it('to listen at over TCP has exactly one host and port', () => {
    expect(faults('tcp://a:1,b:2', listenAddress)).toEqual(['must name exactly one host:port to listen at']);
    expect(faults('tcp://a:1', listenAddress)).toEqual([]);
    expect(faults('nats://a:1,b:2', listenAddress)).toEqual([]);
  });

  it('is displayed without credentials', () => {
    expect(addressText(address.parse('redis://me:secret@h:6379/2'))).toBe('redis://h:6379/2');
    expect(addressText(address.parse('rediss://me:secret@h:6379'))).toBe('rediss://h:6379');
    expect(addressText(address.parse('nats://me:secret@a:1,b:2'))).toBe('nats://a:1,b:2');
    expect(addressText(address.parse('tcp://a:1,[::1]:2'))).toBe('tcp://a:1,[::1]:2');
  });
});

it('every address in the documentation is valid', () => {
  const texts = ['README.md', ...globSync('docs/**/*.md')].flatMap((file) =>
    [...readFileSync(file, 'utf8').matchAll(/\b[A-Z]+_(?:AT|LISTEN)=(?<text>[^\s`]+)/g)].map(
      ({ groups }) => groups!['text']!,
    ),
  );
  expect(texts.length).toBeGreaterThan(5);
  expect(texts.filter((text) => faults(text).length > 0)).toEqual([]);
});

describe('a balance policy', () => {
  it('is least-loaded by default, and must be a known one', () => {
    expect(balancePolicy.parse(undefined)).toBe('least-loaded');
    expect(balancePolicy.parse('round-robin')).toBe('round-robin');
    expect(balancePolicy.safeParse('fastest').success).toBe(false);
  });
});
