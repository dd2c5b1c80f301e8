import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { KeyLookups } from '../src/key-lookups.js';

/** A slow key store, which records how many lookups run at once. */
class Slow {
  readonly asked: string[] = [];
  most = 0;
  takesMs = 10;
  private underWay = 0;

  look = async (key: string): Promise<string | undefined> => {
    this.asked.push(key);
    this.underWay += 1;
    this.most = Math.max(this.most, this.underWay);
    await (this.takesMs === 0 ? setImmediate() : sleep(this.takesMs));
    this.underWay -= 1;
    return key.startsWith('good') ? key : undefined;
  };
}

let slow: Slow;
let lookups: KeyLookups<string>;
beforeEach(() => {
  slow = new Slow();
  lookups = new KeyLookups();
});
const find = (key: string): Promise<string | undefined> => lookups.find(key, () => slow.look(key));
const many = (count: number, name: string): string[] => Array.from({ length: count }, (_, at) => `${name} ${at}`);

describe('a key lookup', () => {
  it('is shared by concurrent requests, whether the key exists or not', async () => {
    for (const key of ['good', 'bad'])
      expect(new Set(await Promise.all([find(key), find(key), find(key)]))).toEqual(
        new Set([key === 'good' ? key : undefined]),
      );
    expect(slow.asked).toEqual(['good', 'bad']);
  });

  it('is not repeated for an unknown key until a change is notified', async () => {
    for (let times = 0; times < 3; times += 1) expect(await find('bad')).toBeUndefined();
    expect(slow.asked).toEqual(['bad']);
    lookups.forget();
    await find('bad');
    expect(slow.asked).toEqual(['bad', 'bad']);
  });

  it('is started anew after a change, even while one is in progress', async () => {
    const before = find('bad');
    lookups.forget();
    const after = find('bad');
    expect(await Promise.all([before, after])).toEqual([undefined, undefined]);
    expect(slow.asked).toEqual(['bad', 'bad']);
  });

  it('that ends after a change decides nothing for those that were started since', async () => {
    const outdated = Promise.withResolvers<undefined>();
    const current = Promise.withResolvers<string>();
    const before = lookups.find('key', () => outdated.promise);
    lookups.forget();
    const after = lookups.find('key', () => current.promise);
    outdated.resolve(undefined);
    expect(await before).toBeUndefined();
    const shared = lookups.find('key', () => Promise.reject(new Error('it was looked up again')));
    current.resolve('valid by now');
    expect(await Promise.all([after, shared])).toEqual(['valid by now', 'valid by now']);
  });

  it('for a key that was valid before overtakes those for unknown keys, whose queue is bounded', async () => {
    await find('good');
    slow.takesMs = 0;
    const flood = many(1_500, 'bad').map((key) =>
      find(key).then(
        () => 'none',
        ({ code, extensions }: { code: string; extensions: object }) => `${code} ${JSON.stringify(extensions)}`,
      ),
    );
    expect(await find('good')).toBe('good');
    expect(slow.asked.length).toBeLessThan(500);
    const outcomes = Map.groupBy(await Promise.all(flood), (it) => it);
    expect([...outcomes].map(([outcome, all]) => [outcome, all.length])).toEqual([
      ['none', 1_002],
      ['unavailable {"retry_after_ms":1000}', 498],
    ]);
    expect(slow.most).toBeLessThanOrEqual(4);
  });

  it('succeeds for each of 1,000 valid keys at once in a fresh process', async () => {
    slow.takesMs = 0;
    const keys = many(1_000, 'good');
    expect(await Promise.all(keys.map(find))).toEqual(keys);
    expect(slow.most).toBe(2);
  });

  it('for a new valid key succeeds among those for unknown keys', async () => {
    const flood = many(50, 'bad').map(find);
    expect(await find('good')).toBe('good');
    await Promise.all(flood);
  });
});
