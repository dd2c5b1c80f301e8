import { shown } from '../bench/table.js';
import { costsOf, type InputName } from './costs.js';

/** A bound of the system as it is today. */
interface Limit {
  what: string;
  value: string;
  /** How it comes about, with the inputs that it is reckoned from. */
  because: string;
}

/** As the code has them: libs/order/src/use-cases, libs/events/src/parts.ts, libs/database/src/database-for.ts. */
const batchOrders = 250;
const logParts = 8;
const poolSize = 8;
const followers = 200;
const followerPollMs = 250;
/** Postgres' own: default connections, when it freezes rows whatever is set, and when it stops for want of numbers. */
const maxConnections = 100;
const freezeAt = 200_000_000;
const xidsUntilStop = 2 ** 31 - 3_000_000;

const perDay = 86_400;
const million = 1_000_000;
const gib = 2 ** 30;

/** Where today's system ends, each bound for itself. */
export const limitsOf = (inputs: Record<InputName, number>): Limit[] => {
  const costs = costsOf(inputs);
  const perSecond = (ms: number): string => `${shown(1_000 / ms)} orders/s`;
  const days = (count: number, perOrder: number, rate: number): string =>
    `${shown(count / (perOrder * rate * perDay))} days`;
  const gibADay = (bytes: number): string => `${shown((bytes * million) / gib)} GiB`;
  const hotMs = (costs.reserveCallMs + batchOrders * costs.reserveOrderMs) * costs.lockedShare + costs.commitMs;
  const mixNodeMs = costs.nodeOrderMs + (inputs.mixLines - 1) * costs.nodeLineMs;
  return [
    {
      what: 'a process with all modules (one core)',
      value: perSecond(inputs.nodeMs),
      because: `nodeMs ${shown(inputs.nodeMs)}`,
    },
    {
      what: 'a process of order',
      value: perSecond(costs.nodeOrderMs),
      because: `nodeMs × orderShare ${shown(inputs.orderShare)}`,
    },
    {
      what: '… orders of the real mix',
      value: perSecond(mixNodeMs),
      because: `mixNodeMs ${shown(inputs.mixNodeMs)} × mixOrderShare ${shown(inputs.mixOrderShare)}`,
    },
    {
      what: 'a process of inventory',
      value: perSecond(inputs.nodeMs * (1 - inputs.orderShare)),
      because: 'nodeMs × the rest',
    },
    {
      what: 'a process with all modules, orders of the real mix',
      value: perSecond(inputs.mixNodeMs),
      because: `mixNodeMs ${shown(inputs.mixNodeMs)}`,
    },
    {
      what: 'Postgres, by core',
      value: perSecond(inputs.postgresMs),
      because: `postgresMs ${shown(inputs.postgresMs)}; not tried beyond two cores`,
    },
    {
      what: '… orders of the real mix',
      value: perSecond(inputs.mixPostgresMs),
      because: `mixPostgresMs ${shown(inputs.mixPostgresMs)}`,
    },
    {
      what: 'one product (its row, one batch at a time)',
      value: `${shown((batchOrders * 1_000) / hotMs)} orders/s`,
      because: `${batchOrders} orders in ${shown(hotMs)} ms: call and orders × lockedShare ${shown(costs.lockedShare)}, commitMs`,
    },
    {
      what: 'transactions that wait for the disk one by one',
      value: `${shown(1_000 / inputs.commitMs)} a second`,
      because: `commitMs ${shown(inputs.commitMs)}; an order needs ${shown(inputs.transactions)}`,
    },
    {
      what: 'log of the database, 10,000 orders/s',
      value: `${shown((inputs.walBytes * 10_000) / million)} MB/s`,
      because: `walBytes ${shown(inputs.walBytes)}, of walDiskMbPerSecond ${shown(inputs.walDiskMbPerSecond)}`,
    },
    {
      what: '… orders of the real mix',
      value: `${shown((inputs.mixWalBytes * 10_000) / million)} MB/s`,
      because: `mixWalBytes ${shown(inputs.mixWalBytes)}`,
    },
    {
      what: 'disk, a million orders',
      value: gibADay(inputs.diskBytes),
      because: `diskBytes ${shown(inputs.diskBytes)}; a million a day are ${shown((inputs.diskBytes * million * 365) / gib)} GiB a year`,
    },
    {
      what: '… orders of the real mix',
      value: gibADay(inputs.mixDiskBytes),
      because: `mixDiskBytes ${shown(inputs.mixDiskBytes)}; ${shown((inputs.mixDiskBytes * million * 365) / gib)} GiB a year`,
    },
    {
      what: 'orders until indexes by random keys fill half of the memory',
      value: `${shown((inputs.memoryGb * gib) / 2 / inputs.randomIndexBytes / million)} million`,
      because: `randomIndexBytes ${shown(inputs.randomIndexBytes)}, memoryGb ${shown(inputs.memoryGb)}`,
    },
    {
      what: 'until rows are frozen by force, 10,000 orders/s',
      value: days(freezeAt, inputs.transactions, 10_000),
      because: `autovacuum_freeze_max_age ${shown(freezeAt)}, transactions ${shown(inputs.transactions)}`,
    },
    {
      what: 'until Postgres stops for want of numbers, nothing frozen',
      value: days(xidsUntilStop, inputs.transactions, 10_000),
      because: `2^31 less 3 million; one order a batch: ${days(xidsUntilStop, 3, 10_000)}`,
    },
    {
      what: 'instances of a consumer that have something to do',
      value: String(logParts),
      because: 'parts of the log; each instance reads all of it',
    },
    {
      what: 'one reader of the log',
      value: `${shown(inputs.logEventsPerSecond)} events/s`,
      because: 'logEventsPerSecond: sales in the process of order',
    },
    {
      what: 'order processes on one Postgres',
      value: String(Math.floor(maxConnections / poolSize)),
      because: `a pool of ${poolSize} each, max_connections ${maxConnections} as Postgres comes`,
    },
    {
      what: 'followers of GET /events, by process',
      value: String(followers),
      because: `each asks every ${followerPollMs} ms: ${(followers * 1_000) / followerPollMs} statements/s`,
    },
  ];
};
