import { SeededRandom } from '#testing';
import { describe, expect, it } from '@jest/globals';
import { balanceBy, balancePolicy, type BalancePolicy } from '../src/balance.js';
import { PeakLatency } from '../src/peak-latency.js';
import { simulate } from './simulation.js';

const policies = ['random', 'round-robin', 'least-loaded'] as const;
const random = new SeededRandom();
const pickBy = (policy: BalancePolicy) => balanceBy(policy, () => random.next());
const instances = (...costs: number[]) => costs.map((cost, index) => ({ index, load: cost, cost: () => cost }));

describe('balancing', () => {
  it('is least-loaded by default, and must be a known policy', () => {
    expect(balancePolicy.parse(undefined)).toBe('least-loaded');
    expect(balancePolicy.safeParse('fastest').success).toBe(false);
  });

  it('by round-robin picks every instance equally often', () => {
    const pick = pickBy('round-robin');
    const picked = Array.from({ length: 9 }, () => pick(instances(5, 0, 9)).index);
    expect([0, 1, 2].map((index) => picked.filter((it) => it === index).length)).toEqual([3, 3, 3]);
  });

  it('by random picks every instance', () => {
    const pick = pickBy('random');
    const picked = new Set(Array.from({ length: 500 }, () => pick(instances(5, 0, 9)).index));
    expect(picked).toEqual(new Set([0, 1, 2]));
  });

  it('by least-loaded never picks the most loaded of three, and picks the less loaded of two', () => {
    const pick = pickBy('least-loaded');
    const picked = new Set(Array.from({ length: 500 }, () => pick(instances(5, 9, 7)).index));
    expect(picked.has(1)).toBe(false);
    expect(pick(instances(3, 1)).index).toBe(1);
    expect(pick(instances(7)).index).toBe(0);
  });

  it.each(policies)('by %s distributes many calls evenly', (policy) => {
    const all = instances(0, 0, 0, 0).map((it) => ({ ...it, calls: 0 }));
    for (const it of all) it.cost = () => it.calls;
    const pick = pickBy(policy);
    for (let call = 0; call < 4_000; call += 1) pick(all).calls += 1;
    for (const { calls } of all) expect(Math.abs(calls - 1_000)).toBeLessThan(250);
  });
});

describe('latency', () => {
  it('rises at once and decays over time', () => {
    const latency = new PeakLatency();
    latency.measured(10, 0);
    latency.measured(400, 1);
    expect(latency.at(1)).toBe(400);
    latency.measured(10, 2);
    expect(latency.at(2)).toBeGreaterThan(390);
    for (let now = 3; now < 10_003; now += 10) latency.measured(10, now);
    expect(latency.at(10_003)).toBeCloseTo(10 + 390 / Math.E, -1);
  });

  it('decays while nothing is measured, so that a slow instance is tried again', () => {
    const [slow, fast] = [new PeakLatency(), new PeakLatency()];
    slow.measured(100, 0);
    fast.measured(10, 0);
    expect(slow.costOf(0, 0)).toBeGreaterThan(fast.costOf(5, 0));
    fast.measured(10, 24_000);
    expect(slow.costOf(0, 24_000)).toBeLessThan(fast.costOf(0, 24_000));
  });

  it('that is unknown costs less than a known one for the first call, and more for a second', () => {
    const known = new PeakLatency();
    known.measured(50, 0);
    expect(new PeakLatency().costOf(0, 0)).toBeLessThan(known.costOf(0, 0));
    expect(new PeakLatency().costOf(1, 0)).toBeGreaterThan(known.costOf(1_000, 0));
  });
});

describe('one of three instances that is ten times slower', () => {
  const uniform = () => 5 + random.next() * 10;
  /** Most are fast, and some take several times as long. */
  const skewed = () => 1 - 9 * Math.log(1 - random.next());
  const ratio = (policy: BalancePolicy, callers: number, latencyMs: () => number): number => {
    const p99 = (factors: number[]) => simulate({ pick: pickBy(policy), callers, latencyMs, factors }).p99Ms;
    return p99([10, 1, 1]) / p99([1, 1, 1]);
  };

  it.each([1, 4, 16, 64])('hardly raises the p99 of %i callers by least-loaded', (callers) => {
    expect(ratio('least-loaded', callers, uniform)).toBeLessThan(1.1);
    expect(ratio('least-loaded', callers, skewed)).toBeLessThan(1.5);
  });

  it.each(['random', 'round-robin'] as const)('raises the p99 more than fourfold by %s', (policy) => {
    expect(ratio(policy, 16, uniform)).toBeGreaterThan(5);
    expect(ratio(policy, 16, skewed)).toBeGreaterThan(4);
  });

  it('is used again when it has recovered', () => {
    const { shares } = simulate({
      ...{ pick: pickBy('least-loaded'), callers: 16, latencyMs: uniform, factors: [10, 1, 1] },
      recoversAtMs: 5_000,
      untilMs: 60_000,
    });
    expect(shares[0]).toBeGreaterThan(0.15);
  });
});

it.each([2, 3])('one of %i instances that hangs for 30 s gets at most 20 of 30 callers', (count) => {
  const { unanswered } = simulate({
    ...{ pick: pickBy('least-loaded'), callers: 30, latencyMs: () => 5 + random.next() * 10 },
    ...{ factors: Array.from({ length: count }, () => 1), hangsAtMs: 5_000, untilMs: 35_000 },
  });
  expect(unanswered).toBeLessThanOrEqual(20);
});
