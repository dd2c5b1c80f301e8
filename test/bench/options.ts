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

export const usage = `Measures Cleave in alternation with theoretical limits (plain SQL, plain HTTP) and with a textbook service.

  npm run bench -- [suite …] [options]

Suites (${defaultSuites.join(', ')} if none is given)
  place        places orders: Cleave, the limits, an HTTP echo, bare batches and the baseline
  open         places orders in an open loop at half of the peak rate; latency counts from the scheduled time
  overload     an open loop at four times the peak rate, then twenty times as many callers as make the peak,
               who wait as Retry-After says
  reads        reads orders by id, the first page of the list and a deep page
  flat         place and reads with few and with many orders in the tables, on two databases
  soak         places orders at half of the peak rate for minutes, and watches memory
  transactions places orders with a payment, orders committed in two phases, and plain orders
  log          measures the lag of the consumers of the log, and rebuilds the sales from it
  cache        reads and writes caches over one Redis: Cleave, bentocache, cache-manager and plain clients; then over
               HTTP, with Node, Fastify and Nest routes that do nothing else
  instances    two order and two inventory processes, and one of each, with all callers on one product
  footprint    what an order leaves behind: bytes of WAL and on disk, transactions, and the CPU of
               each process of a split deployment
  split        places orders (spread and hot): the monolith, and the same modules as services over TCP, called directly
               and through the gateway; then calls and balance
  calls        calls between two processes over each transport: the contract client, Nest's own client, and for Redis
               a bare queue
  guarded      places orders without authentication, limits and telemetry, then with keys, rate limits, metrics
               and traces, of every request and of one in ten
  balance      calls to three instances, all fast or one of them ten times slower, with each balancing policy

Options
  --workload LIST      of ${workloadNames.join(', ')} (all): a thousand products, one product, the invoices of a real shop
  --callers LIST       numbers of concurrent callers (1,64,256)
  --contestants LIST   of ${contestantNames.join(', ')} (all)
  --seconds N          duration of one run (3)
  --rounds N           runs of each contestant, alternately in forward and reverse order (3)
  --seed N             repeats the random choices of an earlier call
  --few N, --many N    orders in the tables for the suite flat (10000, 1000000); --few also for the suite log, as a minimum
  --minutes N          duration of the suite soak (10)
  --json FILE          writes all measurements to FILE
  --profile FOLDER     writes a CPU profile of every process to FOLDER; profiling makes the figures worse
  --help               prints this text

Examples
  npm run bench
  npm run bench -- place --workload spread --callers 64 --contestants ours,limits
  npm run bench -- split --workload hot --callers 64,256
  npm run bench -- flat --many 200000 --json flat.json

Everything runs on one embedded Postgres, with a database for each contestant, in a folder below TMPDIR. That folder must
be on a real disk, because fsync is on. Speed does not change the exit code: it is 0, or 1 if stock is not exact to the
unit or an acknowledged order is lost.
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
