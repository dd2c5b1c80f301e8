import { setTimeout as sleep } from 'node:timers/promises';
import type { Space } from '../contestants.js';
import type { Race } from '../race.js';
import { Source } from '#testing';
import { comesTrue, hung, longestCallMs, orHung, seconds, type Stage } from '../stage.js';

const ttl = 60_000;
/** The longest acceptable time for an answer, also on a busy machine. */
const answerMs = 2_000;

interface Answer {
  shown: string;
  isGood: boolean;
}

/** The result of a call, and how long it took. */
const answerOf = async (call: () => Promise<unknown>, good: readonly unknown[]): Promise<Answer> => {
  const startedAt = performance.now();
  try {
    const given = await orHung(call());
    const ms = performance.now() - startedAt;
    if (given === hung) return { shown: `hung (> ${seconds(longestCallMs)})`, isGood: false };
    const isGood = good.includes(given);
    const inTime = ms < 50 ? 'at once' : `after ${seconds(ms)}`;
    return { shown: isGood ? inTime : `${String(given)} ${inTime}`, isGood: isGood && ms < answerMs };
  } catch (error) {
    return {
      shown: `failed (${(error as Error).name}) after ${seconds(performance.now() - startedAt)}`,
      isGood: false,
    };
  }
};

const paused = async (stage: Stage, call: (space: Space, source: Source) => Promise<unknown>, isWarm: boolean) => {
  const redis = await stage.redis();
  const space = await stage.space(redis.url, {});
  const source = new Source('value');
  if (isWarm)
    for (let read = 0; read < 5; read += 1) {
      await space.getOrSet('mug', source.load, ttl);
      await sleep(20);
    }
  process.kill(redis.pid, 'SIGSTOP');
  const first = await answerOf(() => call(space, source), ['value']);
  // Long enough for timeouts and circuit breakers to take effect.
  await sleep(2_000);
  const then = await answerOf(() => call(space, source), ['value']);
  return { did: `${first.shown}; two seconds later ${then.shown}`, holds: first.isGood && then.isGood };
};

export const outages: readonly Race[] = [
  {
    name: 'Redis is stopped (SIGSTOP), getOrSet of a value cached in the process',
    run: (_, stage) => paused(stage, (space, source) => space.getOrSet('mug', source.load, ttl), true),
  },
  {
    name: 'Redis is stopped (SIGSTOP), getOrSet of a key that is not cached',
    run: (_, stage) => {
      let asked = 0;
      return paused(stage, (space, source) => space.getOrSet(`jug ${(asked += 1)}`, source.load, ttl), false);
    },
  },
  {
    name: 'no Redis at the start, getOrSet; Redis is started',
    run: async (contestant, stage) => {
      const port = await stage.freePort();
      const url = `redis://127.0.0.1:${port}`;
      const opened = await orHung(stage.open(url));
      if (opened === hung) return { did: 'hung while opening', holds: false };
      const space = opened.space('race');
      const source = new Source('value');
      const first = await answerOf(() => space.getOrSet('mug', source.load, ttl), ['value']);
      const server = await stage.redis(port);
      const fresh = await stage.space(server.url, {});
      const isShared = await comesTrue(async () => {
        const wrote = await orHung(
          space.set('jug', 'value').then(
            () => true,
            () => false,
          ),
        );
        return wrote === true && (await fresh.get('jug')) === 'value';
      }, 15_000);
      return {
        did: `${first.shown}; ${isShared ? 'uses it' : 'does not use it within 15.0 s'}`,
        holds: first.isGood && isShared,
      };
    },
  },
];
