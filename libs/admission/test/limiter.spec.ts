import { describe, expect, it } from '@jest/globals';
import { Limiter } from '#admission';
import { SeededRandom } from '#testing';
import { Batches, Clock, Demand, Workers, type Server } from './simulation.js';

const start = (serverOf: (clock: Clock, random: SeededRandom) => Server) => {
  const clock = new Clock();
  const random = new SeededRandom();
  const limiter = new Limiter(
    () => clock.now,
    () => random.next(),
  );
  const server = serverOf(clock, random);
  return { clock, random, limiter, server, demand: new Demand(clock, random, limiter, server) };
};

describe('try', () => {
  it.each([
    ['workers', 2_000, (clock: Clock, random: SeededRandom) => new Workers(clock, random, 10, 5)],
    ['batches', 4_500, (clock: Clock) => new Batches(clock, 15, 0.2)],
    ['slow batches', 2_000, (clock: Clock) => new Batches(clock, 400, 0.4)],
  ] as const)('%s', (name, peak, serverOf) => {
    const { clock, limiter, server, demand } = start(serverOf);
    demand.open(() => peak * 4);
    const told: string[] = [];
    for (let second = 1; second <= 30; second++) {
      if (second === 15) server.slowness = 2;
      if (second === 22) server.slowness = 1;
      clock.runUntil(second * 1_000);
      const { perSecond, p50Ms, p99Ms, shed } = demand.outcome();
      told.push(`${second} limit ${limiter.limit} ${perSecond.toFixed(0)}/s p50 ${p50Ms.toFixed(0)} p99 ${p99Ms.toFixed(0)} shed ${shed} retry ${limiter.retryAfterMs()}`);
    }
    process.stderr.write(`${name}\n${told.join('\n')}\n`);
    expect(1).toBe(1);
  });
});
