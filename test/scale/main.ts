import { shown, tableOf } from '../bench/table.js';
import { hotBaskets, realBaskets, spreadBaskets, type Baskets } from './baskets.js';
import { simulate, type ClusterSettings, type Protocol } from './cluster.js';
import { costsOf } from './costs.js';
import { busiestOf, crossingOf, lineRanges } from './crossing.js';
import { policies, sellOut } from './escrow.js';
import { limitsOf } from './limits.js';
import { readOptions, usage, WrongUsage, type Options, type Part } from './options.js';

const percent = (share: number): string => `${(share * 100).toFixed(share < 0.1 ? 2 : 0)}%`;

const section = (title: string, ...texts: string[]): string => [`## ${title}`, ...texts].join('\n');

const clusterOf = (options: Options, change: Partial<ClusterSettings>): ClusterSettings => ({
  ...{ partitions: 1, cores: options.cores, processes: options.processes, callers: options.callers },
  ...{ protocol: 'held', merging: true, rounds: options.rounds, seed: options.seed },
  ...change,
});

const printLimits = ({ inputs }: Options): string =>
  section(
    'limits: the system as it is today, each limit on its own',
    tableOf(
      ['what', 'limit', 'because'],
      limitsOf(inputs).map(({ what, value, because }) => [what, value, because]),
      3,
    ),
  );

const printCrossing = ({ partitions, seed }: Options, mix: Baskets): string => {
  const ranges = [...lineRanges, [1, Number.POSITIVE_INFINITY] as const];
  const rows = ranges.map(([least, most]) => {
    const of = partitions.map((it) => crossingOf(mix, it, seed, [least, most]));
    const name = most === Number.POSITIVE_INFINITY ? 'all' : least === most ? String(least) : `${least}–${most}`;
    return [name, shown(of[0]!.orders), ...of.map((it) => `${percent(it.crossing)} (${shown(it.touched)})`)];
  });
  const busiest = ['busiest', '', ...partitions.map((it) => `${shown(busiestOf(mix, it, seed))}×`)];
  return section(
    'crossing: real orders that touch more than one database (databases per order on average), by lines',
    tableOf(['lines', 'orders', ...partitions.map(String)], [...rows, busiest]),
    'busiest: lines in the busiest database, relative to an even share.',
  );
};

const ways: { name: string; protocol: Protocol; merging: boolean }[] = [
  { name: 'held', protocol: 'held', merging: true },
  { name: 'held, a call for each process', protocol: 'held', merging: false },
  { name: 'prepared', protocol: 'prepared', merging: false },
];

const printThroughput = (options: Options, workloads: readonly Baskets[]): string => {
  const { partitions, cores, processes, callers } = options;
  const costs = costsOf(options.inputs);
  const rows = workloads.flatMap((baskets) =>
    ways.flatMap(({ name, protocol, merging }) => {
      let one = Number.NaN;
      return partitions.map((count) => {
        const result = simulate(baskets, clusterOf(options, { partitions: count, protocol, merging }), costs);
        if (Number.isNaN(one)) one = result.perSecond;
        return [
          `${baskets.name}, ${name}`,
          String(count),
          shown(result.perSecond),
          `${shown(result.perSecond / one)}×`,
          shown(result.p50Ms),
          shown(result.p99Ms),
          shown(result.ordersACall),
          ...[result.inventoryUse, result.orderUse, result.nodeUse].map(percent),
        ];
      });
    }),
  );
  return section(
    `throughput: ${cores} cores per database, ${processes} order processes per database of orders, ${callers} callers each`,
    tableOf(
      ['workload', 'databases', 'orders/s', '', 'p50 ms', 'p99', 'a call', 'inventory', 'order db', 'node'],
      rows,
    ),
    'a call: orders per call to a database of inventory. Last three columns: utilization of the busiest one.',
  );
};

/**
 * The same for any number of databases, so that nothing else differs. Fewer than elsewhere, because refusals are
 * tracked in pairs of callers.
 */
const scarceCallers = 512;
const scarceOrders = 16_384;

const printScarce = (options: Options, mix: Baskets): string => {
  const costs = costsOf(options.inputs);
  const rows = ways
    .slice(0, 1)
    .concat(ways.slice(2))
    .flatMap(({ name, protocol, merging }) =>
      options.partitions.map((partitions) => {
        const callers = Math.max(1, Math.floor(scarceCallers / options.processes / partitions));
        const rounds = Math.floor(scarceOrders / (callers * options.processes * partitions));
        const cluster = clusterOf(options, { partitions, protocol, merging, callers, rounds, supply: 0.5 });
        const result = simulate(mix, cluster, costs);
        if (result.oversold > 0) throw new Error(`${result.oversold} products were oversold`);
        return [
          name,
          String(partitions),
          percent(result.refused),
          percent(result.refusedForNothing),
          percent(result.sold),
          shown(result.perSecond),
        ];
      }),
    );
  return section(
    `scarce: real orders, with stock for half of their units, ${scarceCallers} callers`,
    tableOf(['', 'databases', 'refused', 'needlessly', 'units sold', 'orders/s'], rows),
    'needlessly: the missing units were held for an order that another database then refused, and were released again.',
  );
};

const bucketCounts = [1, 2, 4, 8, 16];

const printHot = (options: Options): string => {
  const costs = costsOf(options.inputs);
  const rates = bucketCounts.map((buckets) => {
    const { perSecond, p99Ms } = simulate(hotBaskets, clusterOf(options, { buckets, partitions: buckets }), costs);
    return [String(buckets), shown(perSecond), shown(p99Ms)];
  });
  const units = 10_000;
  const demands = [
    { name: '1 unit', quantities: [1] },
    { name: '1 to 12 units', quantities: [1, 1, 1, 2, 2, 3, 4, 6, 12] },
  ];
  const sold = demands.flatMap(({ name, quantities }) =>
    policies.flatMap((policy) =>
      [4, 16, 64].map((buckets) => {
        const result = sellOut({ buckets, policy, units, quantities, seed: options.seed });
        if (result.wrong !== 0) throw new Error(`${result.wrong} units are wrong`);
        return [
          `${name}, ${policy}`,
          String(buckets),
          percent(result.leftAtFirst),
          percent(result.refusedForNothing),
          shown(result.asked),
          shown(result.askedAtTheEnd),
        ];
      }),
    ),
  );
  return section(
    'hot: one product, with one sub-stock in each database',
    tableOf(['sub-stocks', 'orders/s', 'p99 ms'], rates),
    '',
    `${shown(units)} units, until sold out:`,
    tableOf(['orders of, asking', 'sub-stocks', 'left at first refusal', 'needlessly', 'asked', 'at the end'], sold),
    'needlessly: all sub-stocks together had enough. asked: sub-stocks per order; at the end: when less than a tenth is left.',
  );
};

const run = async (options: Options): Promise<void> => {
  const print = (text: string): void => void process.stdout.write(`${text}\n\n`);
  print(`seed ${options.seed}; inputs and sources: npm run scale -- --help`);
  const isReal = options.parts.some((it) => it === 'crossing' || it === 'throughput' || it === 'scarce');
  const mix = isReal ? await realBaskets() : 'the chosen parts do not use the real orders';
  if (isReal && typeof mix === 'string') print(mix);
  const real = typeof mix === 'string' ? undefined : mix;
  const printed: Record<Part, () => string | undefined> = {
    limits: () => printLimits(options),
    crossing: () => real && printCrossing(options, real),
    throughput: () => printThroughput(options, [spreadBaskets, hotBaskets, ...(real ? [real] : [])]),
    scarce: () => real && printScarce(options, real),
    hot: () => printHot(options),
  };
  for (const part of options.parts) {
    const text = printed[part]();
    if (text !== undefined) print(text);
  }
};

try {
  const options = readOptions(process.argv.slice(2));
  if (options === 'help') process.stdout.write(usage());
  else await run(options);
} catch (error) {
  if (!(error instanceof WrongUsage)) throw error;
  process.stderr.write(`${error.message} See --help.\n`);
  process.exitCode = 2;
}
