/** A figure that everything else is reckoned from. */
interface Input {
  value: number;
  unit: string;
  /** The command that measures it, the place where it is said, or that it is assumed. */
  source: string;
}

const quiet = 'measured, npm run bench, 256 callers, docs/performance.md';
const footprint = 'measured, npm run bench -- footprint';
const shares = 'measured by pg_stat_statements, docs/performance.md, "Where it goes"';

/** CPU is of a quiet machine, where docs/performance.md has it; bytes and shares are hardly bent by a busy one. */
export const defaultInputs = {
  nodeMs: { value: 0.16, unit: 'ms an order of one line, one process', source: quiet },
  postgresMs: { value: 0.14, unit: 'ms an order of one line', source: quiet },
  mixNodeMs: { value: 0.54, unit: 'ms an order of the real mix, one process', source: quiet },
  mixPostgresMs: { value: 0.39, unit: 'ms an order of the real mix', source: quiet },
  mixLines: { value: 25.7, unit: 'lines an order', source: 'the real orders' },
  orderShare: {
    value: 0.78,
    unit: 'of node in the process of order, the rest in inventory',
    source: `${footprint} --workload spread --callers 64`,
  },
  mixOrderShare: {
    value: 0.71,
    unit: 'of node in the process of order',
    source: `${footprint} --workload mix --callers 256`,
  },
  batch: { value: 50, unit: 'orders a batch', source: `${footprint} --workload spread --callers 256` },
  walBytes: { value: 2_000, unit: 'bytes an order of one line', source: `${footprint} --workload spread` },
  mixWalBytes: { value: 8_700, unit: 'bytes an order of the real mix', source: `${footprint} --workload mix` },
  diskBytes: {
    value: 1_080,
    unit: 'bytes an order of one line, a third of them indexes',
    source: `${footprint} --workload spread`,
  },
  mixDiskBytes: { value: 4_400, unit: 'bytes an order of the real mix', source: `${footprint} --workload mix` },
  randomIndexBytes: {
    value: 45,
    unit: 'bytes an order of the index of reservations',
    source: `${footprint} --workload spread`,
  },
  transactions: { value: 0.082, unit: 'transactions an order', source: `${footprint} --workload spread --callers 64` },
  commitMs: { value: 0.53, unit: 'ms, one caller, one row', source: `${footprint} on a quiet machine` },
  callMs: {
    value: 0.4,
    unit: 'ms a batch of Postgres, before its first order',
    source: 'measured, docs/decisions/0013',
  },
  reserveShare: { value: 0.4, unit: 'of the CPU of Postgres', source: shares },
  settleShare: { value: 0.12, unit: 'of the CPU of Postgres', source: shares },
  logEventsPerSecond: { value: 54_000, unit: 'events a second of one reader', source: 'measured, docs/performance.md' },
  lockedShare: { value: 0.5, unit: 'of a reserve after the products are locked', source: 'assumed' },
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
  /** Of a call, after the rows of its products are locked: its reservations are written before. */
  lockedShare: number;
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
  const { callMs, batch, postgresMs, reserveShare, settleShare, mixLines } = inputs;
  const orderMs = postgresMs - callMs / batch;
  const lineMs = Math.max(0, inputs.mixPostgresMs - postgresMs) / (mixLines - 1);
  const nodeOrderMs = inputs.nodeMs * inputs.orderShare;
  const mixNodeOrderMs = inputs.mixNodeMs * inputs.mixOrderShare;
  const recordShare = 1 - reserveShare - settleShare;
  const reserveOfLines = reserveShare / (reserveShare + recordShare);
  return {
    reserveCallMs: callMs / 2,
    reserveOrderMs: orderMs * reserveShare,
    reserveLineMs: lineMs * reserveOfLines,
    lockedShare: Math.min(1, inputs.lockedShare),
    settleMs: orderMs * settleShare,
    recordCallMs: callMs / 2,
    recordOrderMs: orderMs * recordShare,
    recordLineMs: lineMs * (1 - reserveOfLines),
    nodeCallMs: inputs.nodeCallMs,
    nodeOrderMs,
    nodeLineMs: Math.max(0, mixNodeOrderMs - nodeOrderMs) / (mixLines - 1),
    commitMs: inputs.commitMs,
    finishMs: inputs.finishMs,
    roundTripMs: inputs.roundTripMs,
  };
};
