/** A figure that everything else is reckoned from. */
interface Input {
  value: number;
  unit: string;
  /** The command that measures it, the place where it is said, or that it is assumed. */
  source: string;
}

const spread = 'measured, npm run bench -- footprint --workload spread --callers 256';
const mix = 'measured, npm run bench -- footprint --workload mix --callers 256';
const shares = 'measured by pg_stat_statements, docs/performance.md, "Where it goes"';

export const defaultInputs = {
  spreadBatch: { value: 128, unit: 'orders a batch', source: spread },
  spreadPostgresMs: { value: 0.14, unit: 'ms an order', source: spread },
  mixPostgresMs: { value: 0.39, unit: 'ms an order', source: mix },
  mixLines: { value: 25.7, unit: 'lines an order', source: mix },
  orderNodeMs: { value: 0.135, unit: 'ms an order', source: `${spread}, the process of order` },
  mixOrderNodeMs: { value: 0.4, unit: 'ms an order', source: `${mix}, the process of order` },
  inventoryNodeMs: { value: 0.037, unit: 'ms an order', source: `${spread}, the process of inventory` },
  monolithNodeMs: { value: 0.16, unit: 'ms an order', source: spread },
  walBytes: { value: 1_976, unit: 'bytes an order', source: spread },
  mixWalBytes: { value: 4_000, unit: 'bytes an order', source: mix },
  diskBytes: { value: 1_061, unit: 'bytes an order, half of them indexes', source: spread },
  mixDiskBytes: { value: 4_000, unit: 'bytes an order', source: mix },
  randomIndexBytes: { value: 100, unit: 'bytes an order of indexes by random keys', source: spread },
  transactions: { value: 0.082, unit: 'transactions an order', source: spread },
  commitMs: { value: 0.534, unit: 'ms', source: `${spread}, one caller, one row` },
  connections: { value: 19, unit: 'connections of a monolith', source: spread },
  callMs: { value: 0.4, unit: 'ms a batch of Postgres, before its first order', source: 'docs/decisions/0013' },
  reserveShare: { value: 0.4, unit: 'of the CPU of Postgres', source: shares },
  settleShare: { value: 0.12, unit: 'of the CPU of Postgres', source: shares },
  logEventsPerSecond: { value: 54_000, unit: 'events a second of one reader', source: 'measured, docs/performance.md' },
  nodeCallMs: { value: 0.05, unit: 'ms of the order process for each database asked', source: 'assumed' },
  roundTripMs: { value: 0.3, unit: 'ms to a database and back', source: 'assumed, one data centre' },
  finishMs: { value: 0.05, unit: 'ms of Postgres to commit what was prepared', source: 'assumed' },
  walDiskMbPerSecond: { value: 200, unit: 'MB a second that the disk of the log takes', source: 'assumed' },
  memoryGb: { value: 64, unit: 'GB of memory of a database', source: 'assumed' },
} satisfies Record<string, Input>;

export type InputName = keyof typeof defaultInputs;
export const inputNames = Object.keys(defaultInputs) as InputName[];

/** What the simulation goes by, in milliseconds. */
export interface Costs {
  /** Of a database of inventory: a call, each of its orders, each line beyond an order's first. */
  reserveCallMs: number;
  reserveOrderMs: number;
  reserveLineMs: number;
  /** Of a database of inventory: what an order costs once it is recorded. */
  settleMs: number;
  /** Of a database of orders. */
  recordCallMs: number;
  recordOrderMs: number;
  recordLineMs: number;
  /** Of the order process. */
  nodeCallMs: number;
  nodeOrderMs: number;
  nodeLineMs: number;
  commitMs: number;
  finishMs: number;
  roundTripMs: number;
}

/**
 * Takes apart what was measured: what a batch costs whatever is in it goes off first, the rest of the orders of one line
 * is what an order costs, and what the long orders cost beyond that is what their lines do. Confirmations do not depend
 * on the lines, so these are shared by Reserve and Record alone.
 */
export const costsOf = (inputs: Record<InputName, number>): Costs => {
  const { callMs, spreadBatch, spreadPostgresMs, reserveShare, settleShare, mixLines } = inputs;
  const orderMs = spreadPostgresMs - callMs / spreadBatch;
  const lineMs = Math.max(0, inputs.mixPostgresMs - spreadPostgresMs) / (mixLines - 1);
  const recordShare = 1 - reserveShare - settleShare;
  const reserveOfLines = reserveShare / (reserveShare + recordShare);
  return {
    reserveCallMs: callMs / 2,
    reserveOrderMs: orderMs * reserveShare,
    reserveLineMs: lineMs * reserveOfLines,
    settleMs: orderMs * settleShare,
    recordCallMs: callMs / 2,
    recordOrderMs: orderMs * recordShare,
    recordLineMs: lineMs * (1 - reserveOfLines),
    nodeCallMs: inputs.nodeCallMs,
    nodeOrderMs: inputs.orderNodeMs,
    nodeLineMs: Math.max(0, inputs.mixOrderNodeMs - inputs.orderNodeMs) / (mixLines - 1),
    commitMs: inputs.commitMs,
    finishMs: inputs.finishMs,
    roundTripMs: inputs.roundTripMs,
  };
};
