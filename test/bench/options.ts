import { parseArgs } from 'node:util';
import { workloadNames, type WorkloadName } from './workloads.js';

const suiteNames = [
  ...([
    'place',
    'open',
    'overload',
    'reads',
    'flat',
    'soak',
    'instances',
    'transactions',
    'log',
    'cache',
    'footprint',
  ] as const),
  ...(['split', 'calls', 'balance', 'guarded'] as const),
] as const;
export type SuiteName = (typeof suiteNames)[number];

const contestantNames = ['ours', 'limits', 'echo', 'bare', 'baseline'] as const;
type ContestantName = (typeof contestantNames)[number];

export interface Options {
  suites: SuiteName[];
  workloads: WorkloadName[];
  callers: number[];
  contestants: ContestantName[];
  /** Of one run. */
  seconds: number;
  rounds: number;
  seed: number;
  /** Suite `flat`: the number of orders in the small and in the large database. */
  fewOrders: number;
  manyOrders: number;
  /** Suite `soak`. */
  minutes: number;
  /** The file for the report as JSON. */
  json: string | undefined;
  /** The folder for CPU profiles. */
  profile: string | undefined;
}

const defaultSuites: SuiteName[] = ['place', 'open', 'reads'];

export const usage = `Measures Cleave, the limits of its database and of HTTP, and the same service as textbooks write it, side by side.

  npm run bench -- [suite …] [options]

Suites (${defaultSuites.join(', ')} when none is named)
  place        places orders: ours, the limits, an HTTP echo, bare batches and the baseline
               in turns
  open         places orders that arrive by themselves at half of the peak, latency from the intended moment
  overload     orders that arrive by themselves at four times the peak, and twenty times as many callers as make the peak,
               who wait as Retry-After says
  reads        reads orders by id, the first page of the list and a deep one
  flat         the same with few and with many orders in the tables, on two databases in turns
  soak         places at half of the peak for minutes, and watches the memory
  transactions places orders that are paid through us, or committed in two phases, and the same ones that are not
  log          watches how far those who follow the log are behind, and builds the sales anew from it
  cache        reads and writes caches over one Redis: ours, bentocache, cache-manager and bare clients; then over HTTP,
               beside Node, Fastify and Nest that do nothing but answer
  instances    two order and two inventory processes against one of each, all callers on one product
  footprint    what an order leaves behind: bytes of the log and on disk, transactions, and the CPU of
               each process where they are separate
  split        places orders (spread and hot): the monolith, and the same modules as services over TCP, asked directly and
               through the gateway, in turns; then calls and balance
  calls        calls between two processes over each transport: our contract client beside Nest's own, and over Redis
               beside a queue and nothing else
  guarded      places orders: nobody asked who they are, nothing counted or measured, and with keys, rate limits, metrics
               and traces, of every request and of one in ten
  balance      three instances of a contract, none or one of them ten times slower, by each way to choose among them

Options
  --workload LIST      of ${workloadNames.join(', ')} (all): a thousand products, one product, the invoices of a real shop
  --callers LIST       how many place at the same time (1,64,256)
  --contestants LIST   of ${contestantNames.join(', ')} (all)
  --seconds N          how long one run takes (3)
  --rounds N           how often everybody has his turn, forwards and backwards alternately (3)
  --seed N             repeats the random choices of another call
  --few N, --many N    orders in the tables, of the suite flat (10000, 1000000); of the suite log at least N few
  --minutes N          how long soak takes (10)
  --json FILE          writes everything that was measured to the file
  --profile FOLDER     writes a CPU profile of every process into the folder; what was measured is worth less then
  --help               this text

Examples
  npm run bench
  npm run bench -- place --workload spread --callers 64 --contestants ours,limits
  npm run bench -- split --workload hot --callers 64,256
  npm run bench -- flat --many 200000 --json flat.json

All use one embedded Postgres, each its own database, in a folder below TMPDIR, which has to be on a real disk: fsync is
on. Slow or fast, the exit code is 0; it is 1 when stock is not exact to the unit or an acknowledged order is lost.
`;

export class WrongUsage extends Error {}

const parsed = (args: string[]) => {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        workload: { type: 'string', default: workloadNames.join() },
        callers: { type: 'string', default: '1,64,256' },
        contestants: { type: 'string', default: contestantNames.join() },
        seconds: { type: 'string', default: '3' },
        rounds: { type: 'string', default: '3' },
        seed: { type: 'string' },
        few: { type: 'string', default: '10000' },
        many: { type: 'string', default: '1000000' },
        minutes: { type: 'string', default: '10' },
        json: { type: 'string' },
        profile: { type: 'string' },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
  } catch (error) {
    throw new WrongUsage((error as Error).message);
  }
};

const number = (name: string, text: string, least: number, most: number): number => {
  const value = Number(text);
  if (!(value >= least && value <= most))
    throw new WrongUsage(`--${name} is ${text}; it must be a number from ${least} to ${most}.`);
  return value;
};

const whole = (name: string, text: string, least: number, most: number): number => {
  const value = number(name, text, least, most);
  if (!Number.isInteger(value)) throw new WrongUsage(`--${name} is ${text}; it must be a whole number.`);
  return value;
};

const someOf = <Known extends string>(name: string, texts: string[], known: readonly Known[]): Known[] => {
  for (const text of texts)
    if (!known.includes(text as Known))
      throw new WrongUsage(`There is no ${name} ${text}; there are ${known.join(', ')}.`);
  return known.filter((it) => texts.includes(it));
};

/** @throws WrongUsage that says what would be right */
export const readOptions = (args: string[]): Options | 'help' => {
  const { values, positionals } = parsed(args);
  if (values.help) return 'help';
  return {
    suites: positionals.length > 0 ? someOf('suite', positionals, suiteNames) : defaultSuites,
    workloads: someOf('workload', values.workload.split(','), workloadNames),
    callers: values.callers.split(',').map((it) => whole('callers', it, 1, 2_000)),
    contestants: someOf('contestant', values.contestants.split(','), contestantNames),
    seconds: number('seconds', values.seconds, 0.2, 600),
    rounds: whole('rounds', values.rounds, 1, 100),
    seed: values.seed === undefined ? Date.now() % 2 ** 31 : whole('seed', values.seed, 0, 2 ** 32 - 1),
    fewOrders: whole('few', values.few, 100, 100_000_000),
    manyOrders: whole('many', values.many, 100, 100_000_000),
    minutes: number('minutes', values.minutes, 0.2, 24 * 60),
    json: values.json,
    profile: values.profile,
  };
};
