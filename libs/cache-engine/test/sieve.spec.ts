import { expect, it } from '@jest/globals';
import { SeededRandom, testSeed } from '#testing';
import { Sieve, unplaced, type Sieved } from '../src/sieve.js';

interface Kept extends Sieved {
  of: string;
}

const keep = (sieve: Sieve<Kept>, key: string, bytes = 1): void => sieve.set(key, { of: key, ...unplaced }, bytes);
const lying = (sieve: Sieve<Kept>, keys: string): string =>
  keys
    .split('')
    .filter((key) => sieve.get(key)?.of === key)
    .join('');

it('evicts the oldest entry that was not read, and gives entries that were read a second chance', () => {
  const sieve = new Sieve<Kept>(3);
  for (const key of 'abc') keep(sieve, key);
  sieve.get('a');
  keep(sieve, 'd');
  expect(sieve.evictions).toBe(1);
  // The hand continues where it was: `a` was read before that, `c` never.
  keep(sieve, 'e');
  expect(lying(sieve, 'abcde')).toBe('ade');
  expect(sieve.evictions).toBe(2);
});

it('continues with the next newer entry if the one at the hand is deleted', () => {
  const sieve = new Sieve<Kept>(3);
  for (const key of 'abc') keep(sieve, key);
  sieve.get('a');
  keep(sieve, 'd');
  sieve.delete('c');
  keep(sieve, 'e');
  keep(sieve, 'f');
  expect(lying(sieve, 'abcdef')).toBe('aef');
});

it('evicts the oldest entry if all were read', () => {
  const sieve = new Sieve<Kept>(3);
  for (const key of 'abc') keep(sieve, key);
  expect(lying(sieve, 'abc')).toBe('abc');
  keep(sieve, 'd');
  expect(lying(sieve, 'abcd')).toBe('bcd');
});

it('removes only the previous value of a key whose new value is too large', () => {
  const sieve = new Sieve<Kept>(3);
  for (const key of 'abc') keep(sieve, key);
  keep(sieve, 'a', 4);
  expect(lying(sieve, 'abc')).toBe('bc');
  expect([sieve.bytes, sieve.size, sieve.evictions]).toEqual([2, 2, 0]);
});

it('passes over a bounded number of read entries per eviction', () => {
  const count = 5_000;
  const sieve = new Sieve<Kept>(count);
  for (let at = 0; at < count; at += 1) keep(sieve, `${at}`);
  for (let at = 0; at < count; at += 1) sieve.get(`${at}`);
  keep(sieve, 'new');
  expect(sieve.get('0')?.of).toBe('0');
  expect(sieve.get('1000')).toBeUndefined();
});

it('never exceeds its bytes, nor returns another value than the last one, under random operations', () => {
  const random = new SeededRandom(testSeed() >>> 0);
  const most = 100;
  const sieve = new Sieve<Kept>(most);
  const put = new Map<string, { value: Kept; bytes: number }>();
  for (let step = 0; step < 4_000; step += 1) {
    const key = `key ${random.integer(0, 40)}`;
    const what = random.integer(0, 9);
    if (what < 5) {
      const value = { of: key, ...unplaced };
      const bytes = random.integer(1, 12);
      sieve.set(key, value, bytes);
      put.set(key, { value, bytes });
      expect(sieve.get(key)).toBe(value);
    } else if (what < 6) {
      sieve.delete(key);
      put.delete(key);
      expect(sieve.get(key)).toBeUndefined();
    } else expect([undefined, put.get(key)?.value]).toContain(sieve.get(key));
    expect(sieve.bytes).toBeLessThanOrEqual(most);
    if (step % 100 > 0) continue;
    const left = [...put].filter(([name, { value }]) => sieve.get(name) === value);
    expect(sieve.size).toBe(left.length);
    expect(sieve.bytes).toBe(left.reduce((sum, [, { bytes }]) => sum + bytes, 0));
  }
  expect(sieve.evictions).toBeGreaterThan(200);
});
