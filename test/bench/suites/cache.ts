import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { startRedis } from '#testing';
import type { Bench } from '../bench.js';
import {
  batchSize,
  cacheNames,
  cacheWork,
  keyCount,
  type CacheCommands,
  type CacheName,
  type CacheWork,
} from '../cache/commands.js';
import { Program } from '../commands.js';
import { withCost } from '../cost.js';
import { runOf } from '../figures.js';
import { pauseBefore, takeTurns, type Turn } from '../turns.js';
import { measureCacheOverHttp } from './cache-http.js';

const run = promisify(execFile);

export const benchmarkName = 'redis-benchmark';

const callersOf: Record<CacheWork, number[]> = {
  'l1 hit': [1],
  'l2 hit': [50, 500],
  'l2 batch of 100': [1],
  write: [50],
};

/** Measured by redis-benchmark: the most that Redis can do, with values of a hundred bytes. */
const ofBenchmark = async (port: number, ...asked: string[]): Promise<number> => {
  const { stdout } = await run('redis-benchmark', ['-p', String(port), '-r', String(keyCount), '--csv', ...asked]);
  return Number(/^"[^"]*","([\d.]+)"/.exec(stdout.trim().split('\n').at(-1)!)?.[1]);
};

const fillForBenchmark = (port: number): Promise<number> =>
  ofBenchmark(port, '-t', 'set', '-n', String(20 * keyCount), '-P', '16', '-d', '100');

/** With sixteen pipelined requests, and with a hundred keys in each. */
const measureRedis = async ({ report }: Bench, port: number): Promise<void> => {
  const nothing = { p50Ms: Number.NaN, p95Ms: Number.NaN, p99Ms: Number.NaN, mostMs: Number.NaN };
  const cost = { nodeMs: Number.NaN, postgresMs: Number.NaN, driverMs: Number.NaN };
  const tell = (workload: CacheWork, callers: number, count: number, perSecond: number): number =>
    report.runs.push(
      runOf({
        ...{ contestant: benchmarkName, workload, callers, count, perSecond, seconds: count / perSecond },
        ...{ ...nothing, ...cost, failures: {} },
      }),
    );
  const hits = 1_000_000;
  tell('l2 hit', 50, hits, await ofBenchmark(port, '-t', 'get', '-n', String(hits), '-c', '50', '-P', '16'));
  const batches = 10_000;
  const mget = ['mget', ...Array.from({ length: batchSize }, () => 'key:__rand_int__')];
  const perSecond = await ofBenchmark(port, '-n', String(batches), '-c', '1', ...mget);
  tell('l2 batch of 100', 1, batchSize * batches, batchSize * perSecond);
};

/** Caches over one Redis, each in a process of its own, in turns. */
export const cacheSuite = async (bench: Bench): Promise<void> => {
  const { options, report, started, say } = bench;
  const redis = started.add(await startRedis());
  const programs = new Map<CacheName, { program: Program<CacheCommands>; can: CacheWork[] }>();
  for (const name of cacheNames) {
    say(`cache: filling ${name}`);
    const program = started.add(new Program<CacheCommands>('cache'));
    programs.set(name, { program, can: await program.call('open', { name, redisUrl: redis.url }) });
  }
  const turns = cacheWork.flatMap((work) =>
    callersOf[work].flatMap((callers) =>
      cacheNames.flatMap((name): Turn[] => {
        const { program, can } = programs.get(name)!;
        if (!can.includes(work)) return [];
        return [
          { name: `${work}, ${name}, callers: ${callers}`, take: (round) => take(name, program, work, callers, round) },
        ];
      }),
    ),
  );
  const take = async (
    name: CacheName,
    program: Program<CacheCommands>,
    work: CacheWork,
    callers: number,
    round: number,
  ): Promise<void> => {
    await pauseBefore(options.seconds);
    const load = { work, callers, seed: options.seed + round };
    await program.call('load', { ...load, durationMs: 300 });
    const { result, othersShare } = await withCost(bench, { pids: [program.pid, redis.pid] }, () =>
      program.call('load', { ...load, durationMs: options.seconds * 1_000 }),
    );
    const { keys, wrong, seconds, cpuMs, p50Ms, p95Ms, p99Ms, mostMs } = result;
    if (wrong > 0) report.faults.push(`${name}: ${wrong} of ${keys} values were wrong (${work})`);
    report.runs.push(
      runOf({
        ...{ contestant: name, workload: work, callers, count: keys, seconds, perSecond: keys / seconds },
        ...{ p50Ms, p95Ms, p99Ms, mostMs, nodeMs: cpuMs / keys, postgresMs: Number.NaN, driverMs: Number.NaN },
        failures: {},
        othersShare,
      }),
    );
  };
  const byRedis = { name: benchmarkName, take: () => measureRedis(bench, redis.port) };
  const hasBenchmark = await run('redis-benchmark', ['--version']).then(
    () => true,
    () => false,
  );
  if (hasBenchmark) await fillForBenchmark(redis.port);
  else report.notes.push('redis-benchmark is not installed, so Redis was not measured by itself');
  await takeTurns(hasBenchmark ? [...turns, byRedis] : turns, options.rounds, say);
  await started.stop(...[...programs.values()].map((it) => it.program));
  await measureCacheOverHttp(bench, redis.url);
  await started.stop(redis);
};
