import { readingNames } from './readings.js';
import type { CacheWork } from './cache/commands.js';
import type { Report } from './report.js';
import { openName } from './suites/open.js';
import { balanceCallers, balanceNames } from './suites/balance.js';
import { callsCallers, callSizes, callsOver } from './suites/calls.js';
import { benchmarkName } from './suites/cache.js';
import { cacheHttpCallers, cacheHttpNames, keysInBatch } from './suites/cache-http.js';
import { flatNames, flatPlacing } from './suites/flat.js';
import { guardedNames, guardedPlacing } from './suites/guarded.js';
import { instancesNames, instancesPlacing } from './suites/instances.js';
import { keptWithRefusalsOf, leastOfPeak, overloadNames, peakOf } from './suites/overload.js';
import { lagOf, rebuildName } from './suites/log.js';
import { splitNames, splitPlacing } from './suites/split.js';
import { twoPhaseName } from './suites/transactions.js';

export interface Goal {
  name: string;
  /** The value of a contestant, by default ours; NaN if it was not measured. */
  value(report: Report, who?: string): number;
  /** A contestant that only does what is unavoidable: its value bounds what this design can reach. */
  bound?: string;
  /** Without `least` and `most` the value is only published. */
  least?: number;
  most?: number;
  unit: string;
}

/** The median rate, as a multiple of that of another contestant measured right beside it. */
const times =
  (workload: string, callers: number, other: string, otherCallers?: number) =>
  (report: Report, who = 'ours'): number =>
    report.median('perSecond', who, workload, callers) / report.median('perSecond', other, workload, otherCallers);

const cpuMs =
  (workload: string, callers: number) =>
  (report: Report, who = 'ours'): number =>
    report.median('nodeMs', who, workload, callers) + report.median('postgresMs', who, workload, callers);

const p99OverP50 =
  (contestant: string, workload: string, callers?: number) =>
  (report: Report): number =>
    report.median('p99Ms', contestant, workload, callers) / report.median('p50Ms', contestant, workload, callers);

const manyOverFew =
  (workload: string) =>
  (report: Report): number =>
    report.median('perSecond', flatNames.many, workload) / report.median('perSecond', flatNames.few, workload);

const twoOverOne =
  (callers: number) =>
  (report: Report): number =>
    report.median('perSecond', instancesNames.two, instancesPlacing, callers) /
    report.median('perSecond', instancesNames.one, instancesPlacing, callers);

const splitOverMonolith =
  (workload: 'spread' | 'hot', callers: number, name: string) =>
  (report: Report): number =>
    report.median('perSecond', name, splitPlacing(workload), callers) /
    report.median('perSecond', splitNames.monolith, splitPlacing(workload), callers);

/** The same orders, sent directly to the order service as to the monolith, and through the gateway. */
const splitGoals = (['spread', 'hot'] as const).flatMap((workload) =>
  [64, 256].flatMap((callers): Goal[] => {
    const where = `${workload}, ${callers} callers`;
    const [direct, gateway] = [splitNames.direct, splitNames.behindGateway];
    return [
      {
        name: `${where}, split over monolith`,
        value: splitOverMonolith(workload, callers, direct),
        least: 0.8,
        unit: '×',
      },
      { name: `${where}, through the gateway`, value: splitOverMonolith(workload, callers, gateway), unit: '×' },
    ];
  }),
);

/** With everything that an exposed service needs, relative to none of it. */
const guardedGoals = [64, 256].flatMap((callers) =>
  (
    [
      ['every request traced', 'traced'],
      ['one in ten traced', 'sampled'],
    ] as const
  ).map(([how, name]): Goal => ({
    name: `${callers} callers, keys, limits, metrics and ${how}, over none`,
    value: (report) =>
      report.median('perSecond', guardedNames[name], guardedPlacing, callers) /
      report.median('perSecond', guardedNames.off, guardedPlacing, callers),
    least: 0.85,
    unit: '×',
  })),
);

/** Calls by contract, as a multiple of those of Nest's own client over the same transport. */
const callGoals = (['tcp', 'redis', 'nats'] as const).flatMap((transport) =>
  callSizes.flatMap((size) =>
    callsCallers.map((callers): Goal => {
      const workload = callsOver(transport, size);
      const value = times(workload, callers, 'nest', callers);
      const bound = transport === 'redis' && { bound: 'queue' };
      return { name: `${workload}, callers: ${callers}, over Nest`, value, least: 0.8, unit: '×', ...bound };
    }),
  ),
);

const slowOverNone = (report: Report): number =>
  report.median('p99Ms', 'least-loaded', balanceNames.one, balanceCallers) /
  report.median('p99Ms', 'least-loaded', balanceNames.none, balanceCallers);

/** Purchases are final once the money is taken. */
const purchasesOverOrders = (report: Report): number =>
  report.median('perSecond', 'ours', 'purchase', 64) / report.median('perSecond', 'ours', 'spread', 64);

const twoPhaseOverOrders = (report: Report): number =>
  report.median('perSecond', twoPhaseName, 'spread', 64) / report.median('perSecond', 'ours', 'spread', 64);

const lagP99 =
  (follower: Parameters<typeof lagOf>[0], callers: number) =>
  (report: Report): number =>
    report.median('p99Ms', 'ours', lagOf(follower), callers);

const rebuilt = (report: Report): number => report.median('perSecond', 'ours', rebuildName, 1);

/** How much longer a single caller waits than with the baseline, in commits, each as long as limit a with one connection. */
const commitsMore = (report: Report): number => {
  const commit = report.calibrations.find(
    (it) => it.contestant === 'limit a' && it.workload === 'spread' && it.connections === 1,
  );
  const more = report.median('p50Ms', 'ours', 'spread', 1) - report.median('p50Ms', 'baseline', 'spread', 1);
  return more / (commit?.p50Ms ?? Number.NaN);
};

/** The best rate over all numbers of callers. */
const mostLines = (report: Report): number => {
  const figures = report.figures().filter((it) => it.contestant === 'ours' && it.workload === 'mix');
  const rates = figures.map((it) => report.median('linesPerSecond', 'ours', 'mix', it.callers));
  return rates.length === 0 ? Number.NaN : Math.max(...rates);
};

/** Our keys per second in one kind of work, as a multiple of another cache's. */
const cacheTimes =
  (work: CacheWork, callers: number, other: string, otherCallers = callers) =>
  (report: Report, who = 'ours'): number =>
    report.median('perSecond', who, work, callers) / report.median('perSecond', other, work, otherCallers);

const hitOverEcho = (report: Report, who = 'ours'): number =>
  report.median('nodeMs', who, cacheHttpNames.hit, cacheHttpCallers) /
  report.median('nodeMs', 'echo', cacheHttpNames.hit, cacheHttpCallers);

/** The client alone, as a share of what Redis can do: key by key, and with a hundred at once. */
const clientGoals = ([500, 50, 1] as const).map((callers): Goal => {
  const work: CacheWork = callers === 1 ? 'l2 batch of 100' : 'l2 hit';
  const value = (report: Report): number => times(work, callers, benchmarkName)(report, 'node-redis');
  return { name: `node-redis alone, ${work}, callers: ${callers}, over redis-benchmark`, value, unit: '×' };
});

const batchOverGets = (report: Report): number =>
  (keysInBatch * report.median('perSecond', 'ours', cacheHttpNames.batch, cacheHttpCallers)) /
  report.median('perSecond', 'ours', cacheHttpNames.hit, cacheHttpCallers);

/** A shorter run is inconclusive, because the heap has not reached its size yet. */
const shortestSoakMinutes = 5;

const growth = ({ memory }: Report): number =>
  memory && memory.minutes >= shortestSoakMinutes ? memory.mbPerMinute : Number.NaN;

const overPeak =
  (workload: string) =>
  (report: Report): number =>
    report.median('perSecond', 'ours', workload) / peakOf(report).perSecond;

const p99OverPeak =
  (workload: string) =>
  (report: Report): number =>
    report.median('p99Ms', 'ours', workload) / peakOf(report).p99Ms;

/** At four times the peak; for other contestants, what a process would keep whose refusals cost as much as their answers. */
const keptOfPeak = (report: Report, who = 'ours'): number =>
  who === 'ours' ? overPeak(overloadNames.open)(report) : keptWithRefusalsOf(report, who);

/** The goals that this benchmark checks. */
export const goals: Goal[] = [
  {
    name: 'spread, 64 callers, over limit a',
    value: times('spread', 64, 'limit a'),
    least: 0.7,
    bound: 'bare',
    unit: '×',
  },
  {
    name: 'spread, 64 callers, over limit b',
    value: times('spread', 64, 'limit b'),
    least: 1.6,
    bound: 'bare',
    unit: '×',
  },
  {
    name: 'spread, 256 callers, over limit a',
    value: times('spread', 256, 'limit a'),
    least: 1,
    bound: 'bare',
    unit: '×',
  },
  { name: 'hot, 64 callers, over limit a', value: times('hot', 64, 'limit a'), least: 2.5, bound: 'bare', unit: '×' },
  { name: 'hot, 64 callers, over limit b', value: times('hot', 64, 'limit b'), least: 4, bound: 'bare', unit: '×' },
  { name: 'hot, 256 callers, over limit a', value: times('hot', 256, 'limit a'), least: 3.5, bound: 'bare', unit: '×' },
  { name: 'spread, 64 callers, over the baseline', value: times('spread', 64, 'baseline', 64), least: 8, unit: '×' },
  { name: 'hot, 64 callers, over the baseline', value: times('hot', 64, 'baseline', 64), least: 30, unit: '×' },
  { name: 'CPU per order, spread, 64 callers', value: cpuMs('spread', 64), most: 0.15, bound: 'bare', unit: ' ms' },
  { name: 'CPU per order, spread, 256 callers', value: cpuMs('spread', 256), most: 0.12, bound: 'bare', unit: ' ms' },
  { name: 'added latency of one caller, over the baseline', value: commitsMore, most: 1, unit: ' commits' },
  { name: 'p99 over p50, spread, 64 callers', value: p99OverP50('ours', 'spread', 64), most: 3, unit: '×' },
  { name: 'p99 over p50, hot, 64 callers', value: p99OverP50('ours', 'hot', 64), most: 3, unit: '×' },
  { name: 'p99 over p50, open loop at half of the peak', value: p99OverP50('ours', openName), most: 3, unit: '×' },
  {
    name: 'placed at four times the peak rate, over the peak',
    value: keptOfPeak,
    least: leastOfPeak,
    bound: 'socket',
    unit: '×',
  },
  {
    name: 'p99 at four times the peak rate, over the peak',
    value: p99OverPeak(overloadNames.open),
    most: 5,
    unit: '×',
  },
  {
    name: 'placed by twenty times the callers, over the peak',
    value: overPeak(overloadNames.many),
    least: 0.8,
    unit: '×',
  },
  {
    name: 'p99 of twenty times the callers, over the peak',
    value: p99OverPeak(overloadNames.many),
    most: 5,
    unit: '×',
  },
  { name: 'real mix, lines a second', value: mostLines, least: 60_000, unit: '' },
  { name: 'placing, many orders over few', value: manyOverFew(flatPlacing), least: 0.9, unit: '×' },
  { name: 'reading by id, many orders over few', value: manyOverFew(readingNames.byId), least: 0.9, unit: '×' },
  { name: 'first page, many orders over few', value: manyOverFew(readingNames.firstPage), least: 0.9, unit: '×' },
  { name: 'deep page, many orders over few', value: manyOverFew(readingNames.deepPage), least: 0.9, unit: '×' },
  { name: 'purchases over plain orders, 64 callers', value: purchasesOverOrders, least: 0.5, unit: '×' },
  { name: 'two-phase over plain orders, 64 callers', value: twoPhaseOverOrders, least: 0.3, unit: '×' },
  { name: 'lag of stock, p99, 64 callers', value: lagP99('stock', 64), most: 200, unit: ' ms' },
  { name: 'lag of stock, p99, 256 callers', value: lagP99('stock', 256), most: 200, unit: ' ms' },
  { name: 'lag of sales, p99, 64 callers', value: lagP99('sales', 64), most: 200, unit: ' ms' },
  { name: 'lag of sales, p99, 256 callers', value: lagP99('sales', 256), most: 200, unit: ' ms' },
  { name: 'rebuild of the sales, events a second', value: rebuilt, least: 50_000, unit: '' },
  {
    name: 'cache, L2 hits, 500 callers',
    value: cacheTimes('l2 hit', 500, benchmarkName, 50),
    least: 0.5,
    bound: 'merged MGET',
    unit: '×',
  },
  {
    name: 'cache, L2 hits, 50 callers',
    value: cacheTimes('l2 hit', 50, benchmarkName),
    least: 0.25,
    bound: 'merged MGET',
    unit: '×',
  },
  ...clientGoals,
  {
    name: 'cache, batches over MGET',
    value: cacheTimes('l2 batch of 100', 1, 'node-redis'),
    bound: 'bare contract',
    least: 0.8,
    unit: '×',
  },
  {
    name: 'cache, writes over SET',
    value: cacheTimes('write', 50, 'node-redis'),
    bound: 'bare contract',
    least: 0.9,
    unit: '×',
  },
  { name: 'cache, L1 hits over bare lru-cache', value: cacheTimes('l1 hit', 1, 'lru-cache'), least: 0.5, unit: '×' },
  { name: 'cache, L1 hits over bentocache', value: cacheTimes('l1 hit', 1, 'bentocache'), least: 1, unit: '×' },
  { name: 'cache, L1 hits over cache-manager', value: cacheTimes('l1 hit', 1, 'cache-manager'), least: 1, unit: '×' },
  { name: 'cache, CPU of an HTTP hit over raw HTTP', value: hitOverEcho, most: 1.8, bound: 'nest', unit: '×' },
  { name: 'cache, keys a second, batches over single GETs', value: batchOverGets, least: 10, unit: '×' },
  ...splitGoals,
  ...callGoals,
  ...guardedGoals,
  { name: 'least-loaded, p99 with one of three slow over none', value: slowOverNone, most: 1.5, unit: '×' },
  { name: 'memory growth in a minute', value: growth, most: 1, unit: ' MB' },
  { name: 'hot, 64 callers, two instances over one', value: twoOverOne(64), unit: '×' },
  { name: 'hot, 256 callers, two instances over one', value: twoOverOne(256), unit: '×' },
];

export type Verdict = 'holds' | 'falls short' | 'not measured' | 'published';

export const verdictOf = ({ least, most }: Goal, value: number): Verdict => {
  if (Number.isNaN(value)) return 'not measured';
  if (least === undefined && most === undefined) return 'published';
  return value >= (least ?? Number.NEGATIVE_INFINITY) && value <= (most ?? Number.POSITIVE_INFINITY)
    ? 'holds'
    : 'falls short';
};
