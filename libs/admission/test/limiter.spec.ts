import { describe, expect, it } from '@jest/globals';
import { Limiter } from '#admission';
import { SeededRandom } from '#testing';
import { Batches, Clock, Demand, Workers, type Server } from './simulation.js';

type ServerOf = (clock: Clock, random: SeededRandom) => Server;

const start = (serverOf: ServerOf) => {
  const clock = new Clock();
  const random = new SeededRandom();
  const limiter = new Limiter(
    () => clock.now,
    () => random.next(),
  );
  const server = serverOf(clock, random);
  const demand = new Demand(clock, random, limiter, server);
  /** Runs the simulation on, and returns the outcome of the requests answered meanwhile. */
  const during = (ms: number) => {
    demand.outcome();
    clock.runUntil(clock.now + ms);
    return demand.outcome();
  };
  return { clock, random, limiter, server, demand, during };
};

/** With the capacity of each per second. */
const servers: [string, number, ServerOf][] = [
  ['forty workers', 4_000, (clock, random) => new Workers(clock, random, 40, 10)],
  ['batches in two lanes', 2_500, (clock) => new Batches(clock, 40, 0.4)],
];
const target = { leastMs: 150, mostMs: 350 };

describe.each(servers)('a limiter in front of %s', (_, most, serverOf) => {
  it('serves at capacity with bounded latency under four times the load', () => {
    const { demand, during, limiter } = start(serverOf);
    demand.open(() => 4 * most);
    during(3_000);
    const { perSecond, p50Ms, p99Ms, shed } = during(5_000);
    expect(perSecond).toBeGreaterThan(0.9 * most);
    expect(p50Ms).toBeGreaterThan(target.leastMs);
    expect(p99Ms).toBeLessThan(target.mostMs * 1.5);
    expect(shed).toBeGreaterThan(2 * most * 5);
    // By Little's law: as many as can be processed within the target.
    expect(limiter.limit / most).toBeGreaterThan(target.leastMs / 1_000);
    expect(limiter.limit / most).toBeLessThan(target.mostMs / 1_000);
  });

  it('follows a server that becomes half as fast, down and up again', () => {
    const { demand, during, limiter, server } = start(serverOf);
    demand.open(() => 3 * most);
    during(3_000);
    const before = limiter.limit;
    server.slowness = 2;
    during(3_000);
    const slow = during(3_000);
    expect(limiter.limit).toBeLessThan(0.7 * before);
    expect(slow.perSecond).toBeGreaterThan(0.35 * most);
    expect(slow.p99Ms).toBeLessThan(target.mostMs * 1.5);
    server.slowness = 1;
    during(3_000);
    const fast = during(3_000);
    expect(limiter.limit).toBeGreaterThan(0.7 * before);
    expect(fast.perSecond).toBeGreaterThan(0.9 * most);
  });

  it('refuses nothing below capacity', () => {
    const { demand, during } = start(serverOf);
    demand.open(() => 0.6 * most);
    expect(during(10_000).shed).toBe(0);
  });

  it('serves at capacity for too many clients that honour Retry-After', () => {
    const { demand, during } = start(serverOf);
    for (let caller = 0; caller < most; caller += 1) demand.caller();
    during(5_000);
    const { perSecond, p99Ms, shed } = during(10_000);
    expect(perSecond).toBeGreaterThan(0.9 * most);
    expect(p99Ms).toBeLessThan(target.mostMs * 1.5);
    // Few retries, compared with the work that is done.
    expect(shed).toBeLessThan(most * 10);
  });
});

describe('a limit', () => {
  it('does not throttle batches that take longer than the target at any size', () => {
    const { demand, during } = start((clock) => new Batches(clock, 400, 0.4));
    demand.open(() => 4_000);
    during(25_000);
    expect(during(5_000).perSecond).toBeGreaterThan(700);
  });

  it('rises back to 1,000 in a quiet period after an overload, and admits a burst again', () => {
    const { clock, demand, during, limiter, server } = start((at, random) => new Workers(at, random, 10, 10));
    server.slowness = 20;
    let perSecond = 1_000;
    demand.open(() => perSecond);
    during(10_000);
    expect(limiter.limit).toBeLessThan(300);
    server.slowness = 1;
    perSecond = 50;
    during(20_000);
    expect(limiter.limit).toBe(1_000);
    expect(limiter.inFlight).toBeLessThan(50);
    expect(clock.now).toBe(30_000);
    demand.burst(950);
    expect(demand.outcome().shed).toBe(0);
    demand.burst(100);
    expect(demand.outcome().shed).toBeGreaterThan(0);
  });

  it('falls back to 1,000 in a quiet period after a higher load', () => {
    const { demand, during, limiter } = start((at, random) => new Workers(at, random, 100, 10));
    let perSecond = 20_000;
    demand.open(() => perSecond);
    during(5_000);
    expect(limiter.limit).toBeGreaterThan(2_000);
    perSecond = 500;
    during(10_000);
    expect(limiter.limit).toBe(1_000);
  });

  it('does not change while nothing completes', () => {
    let now = 0;
    const limiter = new Limiter(() => now);
    for (let entered = 0; entered < 1_000; entered += 1) limiter.enter();
    for (; now < 60_000; now += 10) expect(limiter.refuses()).toBe(true);
    expect(limiter.limit).toBe(1_000);
    expect(limiter.shed).toBe(6_000);
  });
});

describe('the retry delay', () => {
  const timesOf = (limiter: Limiter): number[] => Array.from({ length: 1_000 }, () => limiter.retryAfterMs());

  it('is jittered', () => {
    const random = new SeededRandom();
    const times = timesOf(
      new Limiter(
        () => 0,
        () => random.next(),
      ),
    );
    expect(Math.min(...times)).toBeLessThan(600);
    expect(Math.max(...times)).toBeGreaterThan(1_400);
    expect(new Set(times).size).toBeGreaterThan(400);
  });

  it.each([
    [2, 1_000, 3_500],
    [10, 3_000, 30_000],
    [1_000, 10_000, 30_000],
  ])('grows with the overload: at %i times the capacity', (times, leastMs, mostMs) => {
    const { demand, during, limiter } = start((clock, random) => new Workers(clock, random, 1, 10));
    demand.open(() => times * 100);
    during(5_000);
    for (const ms of timesOf(limiter)) {
      expect(ms).toBeGreaterThanOrEqual(leastMs / 2);
      expect(ms).toBeLessThanOrEqual(mostMs);
    }
  });
});
