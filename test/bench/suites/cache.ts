import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { startRedis } from '#testing';
import type { Bench } from '../bench.js';
import { cacheNames, cacheWork, type CacheCommands, type CacheName, type CacheWork } from '../cache/commands.js';
import { Program } from '../commands.js';
import { withCost } from '../cost.js';
import { runOf } from '../figures.js';
import { pauseBefore, takeTurns, type Turn } from '../turns.js';
import { measureCacheOverHttp } from './cache-http.js';

const run = promisify(execFile);

export const benchmarkName = 'redis-benchmark -P 16';

const callersOf: Record<CacheWork, number[]> = {
  'l1 hit': [1],
  'l2 hit': [50, 500],
  'l2 batch of 100': [1],
  write: [50],
};

/** Redis by its own benchmark, sixteen requests in one go: what it can do at all. */
const measureRedis = async ({ report }: Bench, port: number): Promise<void> => {
  const asked = ['-p', String(port), '-t', 'get', '-n', '1000000', '-c', '50', '-P', '16', '-d', '100', '-r', '10000'];
  const { stdout } = await run('redis-benchmark', [...asked, '--csv']);
  const [, ...rows] = stdout.trim().split('\n');
  const perSecond = Number(rows.at(-1)?.split(',')[1]?.replaceAll('"', ''));
  const nothing = { p50Ms: Number.NaN, p95Ms: Number.NaN, p99Ms: Number.NaN, mostMs: Number.NaN };
  const cost = { nodeMs: Number.NaN, postgresMs: Number.NaN, driverMs: Number.NaN };
  const what = { contestant: benchmarkName, workload: 'l2 hit', callers: 50, count: 1_000_000, failures: {} };
  report.runs.push(runOf({ ...what, ...nothing, ...cost, perSecond, seconds: 1_000_000 / perSecond }));
};

/** Caches over one Redis, in a process each, in turns. */
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
  const byRedis = { name: `l2 hit, ${benchmarkName}`, take: () => measureRedis(bench, redis.port) };
  const hasBenchmark = await run('redis-benchmark', ['--version']).then(
    () => true,
    () => false,
  );
  if (!hasBenchmark) report.notes.push('redis-benchmark is not installed, so Redis was not measured by itself');
  await takeTurns(hasBenchmark ? [...turns, byRedis] : turns, options.rounds, say);
  await started.stop(...[...programs.values()].map((it) => it.program));
  await measureCacheOverHttp(bench, redis.url);
  await started.stop(redis);
};
