import { randomOf } from '../support/fresh.js';
import type { Moment } from '../support/postgres-proxy.js';
import type { ProxiedShapeName } from '../support/proxied-shapes.js';
import type { Keeper } from '../support/tables.js';

/** A place in the order path at which a process is killed. */
export interface CrashPoint {
  shape: ProxiedShapeName;
  /** The step, in the words of the design. */
  step: string;
  /** What is done there: a statement by its name, a message by the beginning of its subject. */
  what: string;
  /** Of whom it is asked: a commit of Postgres, a message of NATS, a call of the merchant who wants to be told. */
  of: 'Postgres' | 'NATS' | 'merchant';
  /** Who does it, over a connection of its own. */
  by: Keeper;
  moment: Exclude<Moment, 'sent'>;
}

/** Every commit on the way of an order, and whose it is. */
const commits: Pick<CrashPoint, 'step' | 'what' | 'by'>[] = [
  { step: 'Reserve', what: 'inventory-reserve', by: 'inventory' },
  { step: 'Record', what: 'order-record', by: 'order' },
  { step: 'Refuse', what: 'order-keep-refusals', by: 'order' },
  { step: 'Change', what: 'order-save', by: 'order' },
  { step: 'Deliver', what: 'inventory-settle', by: 'inventory' },
  { step: 'Checkpoint', what: 'orders-checkpoints-advance', by: 'order' },
  { step: 'Claim', what: 'order-sagas-claim', by: 'order' },
  { step: 'Begin', what: 'payment-begin', by: 'payment' },
  { step: 'Charge', what: 'payment-simulated-enter', by: 'payment' },
  { step: 'Settle', what: 'payment-settle', by: 'payment' },
  { step: 'Move', what: 'order-sagas-move', by: 'order' },
  { step: 'Refund', what: 'order-sagas-start', by: 'order' },
  { step: 'Count', what: 'sales-add', by: 'sales' },
  { step: 'Accept', what: 'webhooks-accept', by: 'webhooks' },
  { step: 'Take', what: 'webhooks-claim', by: 'webhooks' },
  { step: 'Sent', what: 'webhooks-settle', by: 'webhooks' },
];

/** Those of a two-phase commit, which take the place of the first two. */
const twoPhaseCommits: typeof commits = [
  { step: 'Prepare', what: 'PREPARE TRANSACTION', by: 'inventory' },
  { step: 'Record', what: 'order-record', by: 'order' },
  { step: 'Commit', what: 'COMMIT PREPARED', by: 'inventory' },
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
      (isComplete ? moments : [random.pick(moments)]).map((moment) => ({ shape, of: 'Postgres', ...commit, moment })),
    );
};

/** Before and after each call that leaves the house, as far as that is not a commit above: always all of them. */
export const callPointsOf = (shape: ProxiedShapeName): CrashPoint[] => [
  { shape, step: 'Publish', what: 'cleave.orders.', of: 'NATS', by: 'order', moment: 'before' },
  { shape, step: 'Publish', what: 'cleave.orders.', of: 'NATS', by: 'order', moment: 'after' },
  { shape, step: 'Acknowledge', what: '$JS.ACK.cleave-orders.sales', of: 'NATS', by: 'sales', moment: 'before' },
  { shape, step: 'Acknowledge', what: '$JS.ACK.cleave-orders.webhooks', of: 'NATS', by: 'webhooks', moment: 'before' },
  { shape, step: 'Tell', what: 'POST', of: 'merchant', by: 'webhooks', moment: 'after' },
];
