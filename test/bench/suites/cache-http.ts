import type { Bench } from '../bench.js';
import { valueOf } from '../cache/commands.js';
import { measureReading, readUnmeasured, type Reading } from '../measure.js';
import { endSystem, startCache, startEcho } from '../systems.js';
import { takeTurns } from '../turns.js';

export const cacheHttpNames = { hit: 'GET /cache, L1 hit', batch: 'POST /cache/batch, 100 keys' } as const;
export const cacheHttpCallers = 64;
/** The number of keys in one batch. */
export const keysInBatch = 100;

const keyCount = 1_000;
const hitsToWarmUp = 50_000;
const keyOf = (at: number): string => `bench ${at}`;

const batchFrom = (first: number): string[] =>
  Array.from({ length: keysInBatch }, (_, at) => keyOf((first + at) % keyCount));

/** The cache as a service over one Redis, compared with plain HTTP, Fastify and Nest that return the same answer. */
export const measureCacheOverHttp = async (bench: Bench, redisUrl: string): Promise<void> => {
  const { options, report, say } = bench;
  const { seconds, seed } = options;
  say('cache: starting the service');
  const ours = await startCache(bench, redisUrl);
  const [url] = ours.urls as [string];
  const sent = async (path: string, init?: RequestInit): Promise<string> => {
    const answer = await fetch(url + path, init);
    if (!answer.ok) throw new Error(`${path} was answered with ${answer.status}: ${await answer.text()}`);
    return answer.text();
  };
  for (let at = 0; at < keyCount; at += keysInBatch) {
    const put = Array.from({ length: keysInBatch }, (_, more) => ({
      key: keyOf(at + more),
      value: valueOf(at + more),
    }));
    await sent('/cache/batch', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ put }),
    });
  }
  const paths = Array.from({ length: keyCount }, (_, at) => `/cache?key=${encodeURIComponent(keyOf(at))}`);
  const hit: Reading = { name: cacheHttpNames.hit, paths };
  const batch: Reading = {
    name: cacheHttpNames.batch,
    paths: ['/cache/batch'],
    bodies: Array.from({ length: keyCount / keysInBatch }, (_, at) =>
      JSON.stringify({ get: batchFrom(at * keysInBatch) }),
    ),
  };
  const answer = await sent(paths[0]!);
  const others = [];
  for (const server of ['node', 'fastify', 'nest'] as const) others.push(await startEcho(bench, answer, server));
  const warming = { callers: cacheHttpCallers, seconds: Math.min(6, seconds * 10), seed };
  const systems = [...others, ours];
  // Until V8 has compiled everything, which depends on the number of requests: a busy machine needs more time for them.
  for (const system of systems)
    for (let answered = 0; answered < hitsToWarmUp;) {
      const more = await readUnmeasured(bench, system, hit, warming);
      if (more === 0) throw new Error(`${system.name} answers nothing: ${hit.name}`);
      answered += more;
    }
  await readUnmeasured(bench, ours, batch, warming);
  const turns = [...systems.map((system) => [system, hit] as const), [ours, batch] as const].map(
    ([system, reading]) => ({
      name: `${reading.name}, ${system.name}`,
      take: async (round: number) => {
        const placing = { callers: cacheHttpCallers, seconds, seed: seed + round };
        report.runs.push(await measureReading(bench, system, reading, placing));
      },
    }),
  );
  await takeTurns(turns, options.rounds, say);
  for (const system of systems) await endSystem(bench, system);
};
