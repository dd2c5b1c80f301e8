import { parseArgs } from 'node:util';
import { defaultInputs, inputNames, type InputName } from './costs.js';
import { shown } from '../bench/table.js';

const parts = ['limits', 'crossing', 'throughput', 'scarce', 'hot'] as const;
export type Part = (typeof parts)[number];

export interface Options {
  parts: Part[];
  partitions: number[];
  /** Cores of each database. */
  cores: number;
  /** Order processes for each database of orders. */
  processes: number;
  callers: number;
  /** Orders of each caller in one simulation. */
  rounds: number;
  seed: number;
  inputs: Record<InputName, number>;
}

const sources = (): string => {
  const width = Math.max(...inputNames.map((it) => it.length));
  return inputNames
    .map((name) => {
      const { value, unit, source } = defaultInputs[name];
      return `  ${name.padEnd(width)}  ${shown(value)} ${unit}: ${source}`;
    })
    .join('\n');
};

export const usage = (): string => `Estimates the limits of a single Postgres, and simulates the gain from several.

  npm run scale -- [part …] [options]

Parts (all when none is named)
  limits      limits of processes, Postgres and disk, and when transaction ids and memory run out
  crossing    the share of real orders that touch several databases if products are partitioned
  throughput  orders per second by number of databases: for a thousand products, for one, for real orders
  scarce      needless refusals if stock is scarce and orders are held in parts by several databases
  hot         one product split into sub-stocks: the gain, and needless refusals

Options
  --partitions LIST  numbers of databases for inventory, with as many for orders (1,4,16)
  --cores N          cores of each database (4)
  --processes N      order processes per database of orders (8)
  --callers N        callers per process; each waits for its answer before the next order (128)
  --rounds N         orders per caller in one simulation (3); the first quarter is not counted
  --seed N           seeds all random choices (1); the same seed prints the same on any machine
  --set NAME=VALUE   overrides an input from the list below; may be repeated
  --help             shows this text

Inputs. CPU times are in milliseconds of one core; "measured" means on two shared virtual cores, Postgres 18, fsync on.
${sources()}

Simulated: batches form as in libs/order/src/use-cases/batcher.ts; the cores of a database take work in the order of its
arrival; product rows are locked from the decision until the WAL is synced (with prepared transactions: until the
order is recorded). Not simulated: network failures, checkpoints, autovacuum, and cores that slow each other down.
`;

export class WrongUsage extends Error {}

const whole = (name: string, text: string, least: number, most: number): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least || value > most)
    throw new WrongUsage(`--${name} is ${text}; it must be a whole number from ${least} to ${most}.`);
  return value;
};

const inputsWith = (changes: readonly string[]): Record<InputName, number> => {
  const inputs = Object.fromEntries(inputNames.map((name) => [name, defaultInputs[name].value])) as Options['inputs'];
  for (const change of changes) {
    const [name, text = ''] = change.split('=');
    const known = inputNames.find((it) => it === name);
    if (!known) throw new WrongUsage(`There is no input ${name}; there are ${inputNames.join(', ')}.`);
    const value = Number(text);
    if (text === '' || !(value >= 0)) throw new WrongUsage(`--set ${change}: the value must be a number from 0 on.`);
    inputs[known] = value;
  }
  return inputs;
};

const parsed = (args: string[]) => {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        partitions: { type: 'string', default: '1,4,16' },
        cores: { type: 'string', default: '4' },
        processes: { type: 'string', default: '8' },
        callers: { type: 'string', default: '128' },
        rounds: { type: 'string', default: '3' },
        seed: { type: 'string', default: '1' },
        set: { type: 'string', multiple: true, default: [] },
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
  } catch (error) {
    throw new WrongUsage((error as Error).message);
  }
};

/** @throws WrongUsage with a message that tells how to correct it */
export const readOptions = (args: string[]): Options | 'help' => {
  const { values, positionals } = parsed(args);
  if (values.help) return 'help';
  for (const part of positionals)
    if (!parts.some((it) => it === part))
      throw new WrongUsage(`There is no part ${part}; there are ${parts.join(', ')}.`);
  return {
    parts: positionals.length > 0 ? parts.filter((it) => positionals.includes(it)) : [...parts],
    partitions: values.partitions.split(',').map((it) => whole('partitions', it, 1, 256)),
    cores: whole('cores', values.cores, 1, 256),
    processes: whole('processes', values.processes, 1, 256),
    callers: whole('callers', values.callers, 1, 2_000),
    rounds: whole('rounds', values.rounds, 2, 1_000),
    seed: whole('seed', values.seed, 0, 2 ** 32 - 1),
    inputs: inputsWith(values.set),
  };
};
