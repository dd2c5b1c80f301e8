import { parseArgs } from 'node:util';
import { defaultInputs, inputNames, type InputName } from './costs.js';
import { shown } from '../bench/table.js';

const parts = ['limits', 'crossing', 'throughput', 'scarce', 'hot'] as const;
export type Part = (typeof parts)[number];

export interface Options {
  parts: Part[];
  partitions: number[];
  /** Of each database. */
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

export const usage = (): string => `Reckons where one Postgres ends, and simulates what more of them would bring.

  npm run scale -- [part …] [options]

Parts (all when none is named)
  limits      what one process, one core and one disk of Postgres can do, and when numbers and disks are used up
  crossing    which share of real orders touches more than one database, were products spread over several
  throughput  orders a second over so many databases: products evenly, one product, real orders
  scarce      what is refused for nothing where stock is short and an order is held in parts
  hot         one product in sub-stocks: what that brings, and what is refused though another one has some

Options
  --partitions LIST  databases of inventory, and as many of orders (1,4,16)
  --cores N          of each database (4)
  --processes N      order processes for each database of orders (8)
  --callers N        for each process; each waits for its answer (128)
  --rounds N         orders of each caller in one simulation (3); the first quarter is not counted
  --seed N           of all random choices (1); the same call prints the same, on any machine
  --set NAME=VALUE   another value of an input below, any number of times
  --help             this text

Inputs. CPU times are in milliseconds of a core; "measured" is on two shared virtual cores, Postgres 18, fsync on.
${sources()}

What is simulated: batches form as in libs/order/src/use-cases/batcher.ts; a database has cores that work in the order
of arrival; rows of products are locked from the decision until its log is synced (until the order is recorded where it
is prepared). Left out: networks that fail, checkpoints, autovacuum, and that a core is slower in company.
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

/** @throws WrongUsage that says what would be right */
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
