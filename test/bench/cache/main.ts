import { SeededRandom } from '#testing';
import { carryOut } from '../commands.js';
import { Samples } from '../samples.js';
import { latencyOf } from '../statistics.js';
import { clients, type CacheClient } from './clients.js';
import {
  batchSize,
  keyCount,
  valueOf,
  type CacheCommands,
  type CacheLoad,
  type CacheResult,
  type CacheWork,
} from './commands.js';

/** The number of local hits between two readings of the clock, which cost more than a hit. */
const hitsAtATime = 100;

let client: CacheClient;
let named = '';

const keyOf = (at: number): string => `bench ${named} ${at}`;
const isValueOf = (value: unknown, at: number): boolean => (value as { id?: number } | undefined)?.id === at;

/** Does some of the work. @returns how many keys it covered, and how many were wrong */
type Step = () => Promise<[keys: number, wrong: number]>;

const steps: Record<CacheWork, (random: SeededRandom) => Step> = {
  'l1 hit': (random) => async () => {
    let wrong = 0;
    for (let hit = 0; hit < hitsAtATime; hit += 1) {
      const at = random.integer(0, keyCount - 1);
      if (!isValueOf(await client.readNear!(keyOf(at)), at)) wrong += 1;
    }
    return [hitsAtATime, wrong];
  },
  'l2 hit': (random) => async () => {
    const at = random.integer(0, keyCount - 1);
    return [1, isValueOf(await client.readFar!(keyOf(at)), at) ? 0 : 1];
  },
  'l2 batch of 100': (random) => async () => {
    const all = Array.from({ length: batchSize }, () => random.integer(0, keyCount - 1));
    const values = await client.readFarMany!(all.map(keyOf));
    return [batchSize, all.filter((at, index) => !isValueOf(values[index], at)).length];
  },
  write: (random) => async () => {
    const at = random.integer(0, keyCount - 1);
    await client.write(keyOf(at), valueOf(at));
    return [1, 0];
  },
};

const load = async ({ work, callers, durationMs, seed }: CacheLoad): Promise<CacheResult> => {
  const random = new SeededRandom(seed);
  const step = steps[work](random);
  const latencies = new Samples();
  let [keys, wrong] = [0, 0];
  const cpu = process.cpuUsage();
  const startedAt = performance.now();
  const stopAt = startedAt + durationMs;
  const caller = async (): Promise<void> => {
    for (let beganAt = performance.now(); beganAt < stopAt;) {
      const [done, failed] = await step();
      keys += done;
      wrong += failed;
      const endedAt = performance.now();
      latencies.add(endedAt - beganAt);
      beganAt = endedAt;
    }
  };
  await Promise.all(Array.from({ length: callers }, caller));
  const seconds = (performance.now() - startedAt) / 1_000;
  const { user, system } = process.cpuUsage(cpu);
  return { keys, wrong, seconds, cpuMs: (user + system) / 1_000, ...latencyOf(latencies.taken()) };
};

carryOut({
  open: async ({ name, redisUrl }) => {
    named = name;
    client = await clients[name](redisUrl);
    for (let at = 0; at < keyCount; at += 1) {
      await client.write(keyOf(at), valueOf(at));
      await client.writeNear?.(keyOf(at), valueOf(at));
    }
    // A value is in process memory once it has been read from Redis twice.
    for (let time = 0; time < 3; time += 1) for (let at = 0; at < keyCount; at += 1) await client.readNear?.(keyOf(at));
    // Its writes are those of node-redis.
    const can: CacheWork[] = name === 'merged MGET' ? [] : ['write'];
    if (client.readNear) can.push('l1 hit');
    if (client.readFar) can.push('l2 hit');
    if (client.readFarMany) can.push('l2 batch of 100');
    return can;
  },
  load,
} satisfies CacheCommands);
