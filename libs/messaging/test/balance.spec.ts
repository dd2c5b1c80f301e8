import { SeededRandom } from '#testing';
import { describe, expect, it, jest } from '@jest/globals';
import { balanceBy } from '../src/balance.js';

const instances = (...loads: number[]) => loads.map((inFlight, index) => ({ index, inFlight }));

describe('balancing', () => {
  it('by turns takes every instance equally often', () => {
    const pick = balanceBy('round-robin');
    const picked = Array.from({ length: 9 }, () => pick(instances(5, 0, 9)).index);
    expect([0, 1, 2].map((index) => picked.filter((it) => it === index).length)).toEqual([3, 3, 3]);
  });

  it('at random takes every instance', () => {
    const random = new SeededRandom();
    const mock = jest.spyOn(Math, 'random').mockImplementation(() => random.next());
    const pick = balanceBy('random');
    const picked = new Set(Array.from({ length: 500 }, () => pick(instances(5, 0, 9)).index));
    mock.mockRestore();
    expect(picked).toEqual(new Set([0, 1, 2]));
  });

  it('by load never takes the most loaded of several, and of two the less loaded', () => {
    const pick = balanceBy('least-loaded');
    const picked = new Set(Array.from({ length: 500 }, () => pick(instances(5, 9, 7)).index));
    expect(picked.has(1)).toBe(false);
    expect(pick(instances(3, 1)).index).toBe(1);
    expect(pick(instances(7)).index).toBe(0);
  });

  it.each(['random', 'round-robin', 'least-loaded'] as const)('%s stays fair over many calls', (policy) => {
    const all = instances(0, 0, 0, 0);
    const pick = balanceBy(policy);
    for (let call = 0; call < 4_000; call += 1) pick(all).inFlight += 1;
    for (const { inFlight } of all) expect(Math.abs(inFlight - 1_000)).toBeLessThan(250);
  });
});
