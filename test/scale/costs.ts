/** A figure that the results are computed from. */
interface Input {
  value: number;
  unit: string;
  /** The command that measures it, where it is documented, or that it is assumed. */
  source: string;
}

const quiet = 'measured, npm run bench, 256 callers, docs/performance.md';
const footprint = 'measured, npm run bench -- footprint';
const shares = 'measured by pg_stat_statements, docs/performance.md, "Where it goes"';

/** CPU times are from a quiet machine, as in docs/performance.md; bytes and shares depend little on other load. */
export const defaultInputs = {
  nodeMs: { value: 0.16, unit: 'ms per order of one line, one process', source: quiet },
  postgresMs: { value: 0.14, unit: 'ms per order of one line', source: quiet },
  mixNodeMs: { value: 0.54, unit: 'ms per order of the real mix, one process', source: quiet },
  mixPostgresMs: { value: 0.39, unit: 'ms per order of the real mix', source: quiet },
  mixLines: { value: 25.7, unit: 'lines per order', source: 'the real orders' },
  orderShare: {
    value: 0.78,
    unit: 'of nodeMs in the order process, the rest in inventory',
    source: `${footprint} --workload spread --callers 64`,
  },
  mixOrderShare: {
    value: 0.71,
    unit: 'of mixNodeMs in the order process',
    source: `${footprint} --workload mix --callers 256`,
  },
  batch: { value: 50, unit: 'orders per batch', source: `${footprint} --workload spread --callers 256` },
  walBytes: { value: 2_000, unit: 'bytes of WAL per order of one line', source: `${footprint} --workload spread` },
  mixWalBytes: { value: 8_700, unit: 'bytes of WAL per order of the real mix', source: `${footprint} --workload mix` },
  diskBytes: {
    value: 1_080,
    unit: 'bytes per order of one line, a third of them indexes',
    source: `${footprint} --workload spread`,
  },
  mixDiskBytes: { value: 4_400, unit: 'bytes per order of the real mix', source: `${footprint} --workload mix` },
  randomIndexBytes: {
    value: 45,
    unit: 'bytes per order in the index of reservations',
    source: `${footprint} --workload spread`,
  },
  transactions: { value: 0.082, unit: 'transactions per order', source: `${footprint} --workload spread --callers 64` },
  commitMs: { value: 0.53, unit: 'ms per commit of one row by one caller', source: `${footprint} on a quiet machine` },
  callMs: {
    value: 0.4,
    unit: 'ms of Postgres per batch, in addition to its orders',
    source: 'measured, docs/decisions/0013',
  },
  reserveShare: { value: 0.4, unit: 'of the CPU of Postgres', source: shares },
  settleShare: { value: 0.12, unit: 'of the CPU of Postgres', source: shares },
  logEventsPerSecond: {
    value: 54_000,
    unit: 'events per second of one reader',
    source: 'measured, docs/performance.md',
  },
  lockedShare: { value: 0.5, unit: 'of a reserve runs after the products are locked', source: 'assumed' },
  nodeCallMs: { value: 0.05, unit: 'ms of the order process per call to a database', source: 'assumed' },
  roundTripMs: { value: 0.3, unit: 'ms per round trip to a database', source: 'assumed, one data centre' },
  finishMs: { value: 0.05, unit: 'ms of Postgres to commit a prepared transaction', source: 'assumed' },
  walDiskMbPerSecond: { value: 200, unit: 'MB per second that the WAL disk can write', source: 'assumed' },
  memoryGb: { value: 64, unit: 'GB of memory per database', source: 'assumed' },
} satisfies Record<string, Input>;

export type InputName = keyof typeof defaultInputs;
export const inputNames = Object.keys(defaultInputs) as InputName[];

/** The costs that the simulation uses, in milliseconds. */
export interface Costs {
  /** In a database of inventory: per call, per order, and per line beyond the first of an order. */
  reserveCallMs: number;
  reserveOrderMs: number;
  reserveLineMs: number;
  /** The share of a call that runs while its product rows are locked; its reservations are written before. */
  lockedShare: number;
  /** In a database of inventory: the confirmation of a recorded order. */
  settleMs: number;
  /** In a database of orders. */
  recordCallMs: number;
  recordOrderMs: number;
  recordLineMs: number;
  /** In the order process. */
  nodeCallMs: number;
  nodeOrderMs: number;
  nodeLineMs: number;
  commitMs: number;
  finishMs: number;
  roundTripMs: number;
}

/**
 * Derives the costs from the measurements. The fixed cost of a batch is subtracted first. The rest for orders of one
 * line is the cost of an order, and what longer orders cost beyond that is the cost of their lines. Confirmations do
 * not depend on lines, so the cost of lines is divided between reserve and record only.
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
