import { randomOf } from '../support/fresh.js';
import type { Moment } from '../support/postgres-proxy.js';
import type { ProxiedShapeName } from '../support/proxied-shapes.js';
import type { Keeper } from '../support/tables.js';

/** A place in the order path at which a process is killed. */
export interface CrashPoint {
  shape: ProxiedShapeName;
  /** The step, in the words of the design. */
  step: string;
  statement: string;
  /** Whose connection to Postgres the statement goes over. */
  by: Keeper;
  moment: Moment;
}

/** Every commit on the way of an order, and whose it is. */
const commits: Pick<CrashPoint, 'step' | 'statement' | 'by'>[] = [
  { step: 'Reserve', statement: 'inventory-reserve', by: 'inventory' },
  { step: 'Record', statement: 'order-record', by: 'order' },
  { step: 'Refuse', statement: 'order-keep-refusals', by: 'order' },
  { step: 'Change', statement: 'order-save', by: 'order' },
  { step: 'Deliver', statement: 'inventory-settle', by: 'inventory' },
  { step: 'Checkpoint', statement: 'orders-checkpoints-advance', by: 'order' },
  { step: 'Claim', statement: 'order-sagas-claim', by: 'order' },
  { step: 'Begin', statement: 'payment-begin', by: 'payment' },
  { step: 'Charge', statement: 'payment-simulated-enter', by: 'payment' },
  { step: 'Settle', statement: 'payment-settle', by: 'payment' },
  { step: 'Move', statement: 'order-sagas-move', by: 'order' },
  { step: 'Refund', statement: 'order-sagas-start', by: 'order' },
  { step: 'Count', statement: 'sales-add', by: 'sales' },
  { step: 'Accept', statement: 'webhooks-accept', by: 'webhooks' },
  { step: 'Take', statement: 'webhooks-claim', by: 'webhooks' },
  { step: 'Sent', statement: 'webhooks-settle', by: 'webhooks' },
];

/** Those of a two-phase commit, which take the place of the first two. */
const twoPhaseCommits: typeof commits = [
  { step: 'Prepare', statement: 'PREPARE TRANSACTION', by: 'inventory' },
  { step: 'Record', statement: 'order-record', by: 'order' },
  { step: 'Commit', statement: 'COMMIT PREPARED', by: 'inventory' },
];

const moments = ['before', 'after'] as const;

const flexibleShapes: readonly ProxiedShapeName[] = ['one database', 'two databases', 'split'];

/**
 * Before each commit and after it, in each shape, with `npm run test:crash`. Otherwise one of the two, and of the many of
 * a flexible commit each in one of the shapes, by the seed: the usual run comes to every commit, and many runs to all.
 */
export const crashPointsOf = (
  shape: ProxiedShapeName,
  protocol: 'flexible' | 'two-phase' = 'flexible',
): CrashPoint[] => {
  const random = randomOf(`${shape} ${protocol}`);
  const isComplete = 'everyCrashPoint' in globalThis;
  const all = protocol === 'flexible' ? commits : twoPhaseCommits;
  const inTurns = randomOf('crash points').shuffled(commits);
  const isHere = (commit: (typeof commits)[number]): boolean =>
    inTurns.indexOf(commit) % flexibleShapes.length === flexibleShapes.indexOf(shape);
  return all
    .filter((it) => isComplete || protocol === 'two-phase' || isHere(it))
    .flatMap((commit) =>
      (isComplete ? moments : [random.pick(moments)]).map((moment) => ({ shape, ...commit, moment })),
    );
};
