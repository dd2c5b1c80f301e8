import { setTimeout as sleep } from 'node:timers/promises';
import type { Contestant, Space } from '../contestants.js';
import type { Outcome, Race } from '../race.js';
import { Source } from '#testing';
import { comesTrue, hung, oldFor, orHung, seconds, type Stage } from '../stage.js';

const key = 'mug';
const ttl = 10_000;
/** The longest time for which a process may return a stale value if it hears nothing. */
const silenceMs = 1_000;
/** Notifications arrive within this time on any machine. */
const toldWithinMs = 1_000;

const told = (where: readonly string[]): string =>
  where.length === 0 ? 'refused the late value' : `cached the stale value (${where.join(', ')})`;

/** A load reads the old value; the key is deleted; the load ends. */
const staleFill = async (contestant: Contestant, stage: Stage, isElsewhere: boolean): Promise<Outcome> => {
  const { url } = await stage.redis();
  const here = await stage.space(url);
  const deleting = isElsewhere ? await stage.space(url) : here;
  const fresh = await stage.space(url);
  const source = new Source('old');
  source.close();
  const loading = here.getOrSet(key, source.load, ttl);
  if (!(await comesTrue(() => source.asked === 1, ttl))) throw new Error('the source was never asked');
  source.value = 'new';
  await deleting.delete(key);
  source.open();
  await loading;
  const where: string[] = [];
  // A new node has nothing in memory, so it reads from Redis.
  if ((await fresh.get(key)) === 'old') where.push('L2');
  if ((await here.getOrSet(key, source.load, ttl)) === 'old') where.unshift('L1');
  return { did: told(where), holds: where.length === 0 };
};

/**
 * Redis's reply with the old value is delayed; meanwhile, the key is changed by another node, and the reader is
 * notified.
 */
const stalePromotion = async (
  contestant: Contestant,
  stage: Stage,
  change: (space: Space) => Promise<unknown>,
): Promise<Outcome> => {
  const redis = await stage.redis();
  const proxy = await stage.proxy(redis);
  const changing = await stage.space(redis.url);
  const reading = await stage.space(proxy.url, { patienceMs: 20_000 });
  const whenTold = async (work: () => Promise<unknown>): Promise<void> => {
    const isTold = contestant.hears ? proxy.heard(key) : Promise.resolve();
    await work();
    if ((await orHung(isTold)) === hung) throw new Error('the other node was not told');
  };
  await whenTold(() => changing.set(key, 'old', ttl));
  const source = new Source('new');
  const read = (): Promise<unknown> => reading.getOrSet(key, source.load, ttl);
  proxy.holdBack(key);
  const held = read();
  if (!(await comesTrue(() => proxy.holdsBack, ttl))) throw new Error('nobody asked Redis');
  await whenTold(() => change(changing));
  const since = performance.now();
  proxy.thaw();
  await held;
  const { ms, isOver } = await oldFor(read, 'old', since, ttl + 2_000);
  if (ms === 0) return { did: 'not cached', holds: true };
  return { did: `cached the stale value for ${isOver ? seconds(ms) : `more than ${seconds(ms)}`}`, holds: false };
};

/** Reads until the value is cached in the process; some caches do so only after several reads. */
const warm = async (space: Space, source: Source): Promise<void> => {
  let given: unknown;
  for (let read = 0; read < 5; read += 1) {
    given = await space.getOrSet(key, source.load, ttl);
    await sleep(20);
  }
  if (given !== source.value) throw new Error(`it gave ${String(given)} before anything was changed`);
};

const oldShown = (ms: number, isOver: boolean): string => {
  if (!isOver) return `stale for more than ${seconds(ms)}`;
  if (ms < 100) return 'stale for less than 0.1 s';
  return ms >= ttl - 500 ? `stale for the whole ttl (${seconds(ttl)})` : `stale for ${seconds(ms)}`;
};

const changedElsewhere = async (stage: Stage, isCut: boolean): Promise<Outcome> => {
  const redis = await stage.redis();
  const proxy = await stage.proxy(redis);
  const changing = await stage.space(redis.url);
  const reading = await stage.space(proxy.url, {});
  const source = new Source('old');
  await changing.set(key, 'old', ttl);
  await warm(reading, source);
  if (isCut) proxy.freeze();
  source.value = 'new';
  await changing.set(key, 'new', ttl);
  const since = performance.now();
  const read = (): Promise<unknown> => reading.getOrSet(key, source.load, ttl);
  const { ms, isOver } = await oldFor(read, 'old', since, ttl + 2_000);
  proxy.thaw();
  // Delayed messages arrive now.
  let isBack = false;
  for (let reads = 0; reads < 50 && !isBack; reads += 1) {
    isBack = (await orHung(read())) === 'old';
    await sleep(10);
  }
  return {
    did: `${oldShown(ms, isOver)}${isOver && isBack ? ', and again after that' : ''}`,
    holds: isOver && !isBack && ms <= (isCut ? silenceMs : toldWithinMs),
  };
};

export const staleValues: readonly Race[] = [
  {
    name: 'late load, deleted by the same node',
    run: (contestant, stage) => staleFill(contestant, stage, false),
  },
  {
    name: 'late load, deleted by another node',
    run: (contestant, stage) => staleFill(contestant, stage, true),
  },
  {
    name: 'late answer of Redis, deleted by another node',
    run: (contestant, stage) => stalePromotion(contestant, stage, (space) => space.delete(key)),
  },
  {
    name: 'late answer of Redis, written by another node',
    run: (contestant, stage) => stalePromotion(contestant, stage, (space) => space.set(key, 'new', ttl)),
  },
  { name: 'written by another node', run: (_, stage) => changedElsewhere(stage, false) },
  {
    name: 'written by another node, connections half open',
    run: (_, stage) => changedElsewhere(stage, true),
  },
];
