import { shown } from '../bench/table.js';
import { costsOf, type InputName } from './costs.js';

/** A limit of the system as it is today. */
interface Limit {
  what: string;
  value: string;
  /** How it is computed, with the inputs used. */
  because: string;
}

/** Defined in libs/order/src/use-cases, libs/events/src/parts.ts, libs/database/src/database-for.ts. */
const batchOrders = 250;
const logParts = 8;
const poolSize = 8;
const followers = 200;
const followerPollMs = 250;
/**
 * Postgres: the default number of connections, the age at which autovacuum is forced to freeze, and the number of
 * transaction ids after which it stops.
 */
const maxConnections = 100;
const freezeAt = 200_000_000;
const xidsUntilStop = 2 ** 31 - 3_000_000;

const perDay = 86_400;
const million = 1_000_000;
const gib = 2 ** 30;

/** The limits of the system as it is today, each on its own. */
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
      what: 'a process with all modules, one core',
      value: perSecond(inputs.nodeMs),
      because: `nodeMs ${shown(inputs.nodeMs)}`,
    },
    {
      what: 'a process of order alone',
      value: perSecond(costs.nodeOrderMs),
      because: `nodeMs × orderShare ${shown(inputs.orderShare)}`,
    },
    {
      what: '… orders of the real mix',
      value: perSecond(mixNodeMs),
      because: `mixNodeMs ${shown(inputs.mixNodeMs)} × mixOrderShare ${shown(inputs.mixOrderShare)}`,
    },
    {
      what: 'a process of inventory alone',
      value: perSecond(inputs.nodeMs * (1 - inputs.orderShare)),
      because: 'nodeMs × (1 − orderShare)',
    },
    {
      what: 'a process with all modules, orders of the real mix',
      value: perSecond(inputs.mixNodeMs),
      because: `mixNodeMs ${shown(inputs.mixNodeMs)}`,
    },
    {
      what: 'Postgres, per core',
      value: perSecond(inputs.postgresMs),
      because: `postgresMs ${shown(inputs.postgresMs)}; not measured beyond two cores`,
    },
    {
      what: '… orders of the real mix',
      value: perSecond(inputs.mixPostgresMs),
      because: `mixPostgresMs ${shown(inputs.mixPostgresMs)}`,
    },
    {
      what: 'one product: its row, one batch at a time',
      value: `${shown((batchOrders * 1_000) / hotMs)} orders/s`,
      because: `${batchOrders} orders in ${shown(hotMs)} ms: call and orders × lockedShare ${shown(costs.lockedShare)}, commitMs`,
    },
    {
      what: 'commits one after the other',
      value: `${shown(1_000 / inputs.commitMs)} per second`,
      because: `commitMs ${shown(inputs.commitMs)}; an order takes ${shown(inputs.transactions)} transactions`,
    },
    {
      what: 'WAL, at 10,000 orders/s',
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
      because: `diskBytes ${shown(inputs.diskBytes)}; a million orders a day: ${shown((inputs.diskBytes * million * 365) / gib)} GiB per year`,
    },
    {
      what: '… orders of the real mix',
      value: gibADay(inputs.mixDiskBytes),
      because: `mixDiskBytes ${shown(inputs.mixDiskBytes)}; ${shown((inputs.mixDiskBytes * million * 365) / gib)} GiB per year`,
    },
    {
      what: 'orders until indexes by random keys fill half of the memory',
      value: `${shown((inputs.memoryGb * gib) / 2 / inputs.randomIndexBytes / million)} million`,
      because: `randomIndexBytes ${shown(inputs.randomIndexBytes)}, memoryGb ${shown(inputs.memoryGb)}`,
    },
    {
      what: 'until autovacuum is forced to freeze rows, at 10,000 orders/s',
      value: days(freezeAt, inputs.transactions, 10_000),
      because: `autovacuum_freeze_max_age ${shown(freezeAt)}, transactions ${shown(inputs.transactions)}`,
    },
    {
      what: 'until Postgres stops for lack of transaction ids, if nothing is frozen',
      value: days(xidsUntilStop, inputs.transactions, 10_000),
      because: `2^31 − 3 million; with one order per batch: ${days(xidsUntilStop, 3, 10_000)}`,
    },
    {
      what: 'instances of a consumer that have work to do',
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
      because: `a pool of ${poolSize} each, the default max_connections ${maxConnections}`,
    },
    {
      what: 'followers of GET /events, per process',
      value: String(followers),
      because: `each polls every ${followerPollMs} ms: ${(followers * 1_000) / followerPollMs} statements/s`,
    },
  ];
};
