import { randomOf } from '../support/fresh.js';
import type { Moment } from '../support/postgres-proxy.js';
import type { ProxiedShapeName } from '../support/proxied-shapes.js';
import type { Keeper } from '../support/tables.js';
import type { ProvocationName } from './provocations.js';

/** A point in the processing of an order at which a process is killed. */
export interface CrashPoint extends Omit<Step, 'kinds'> {
  shape: ProxiedShapeName;
  kind?: string;
  /** Where the step is intercepted: a commit in Postgres, a message to NATS, or a webhook call to the merchant. */
  of: 'Postgres' | 'NATS' | 'merchant';
  /** The process that is killed, if services run separately: the one that performs the step, or its caller. */
  victim: Keeper;
  moment: Exclude<Moment, 'sent'>;
}

interface Step {
  /** Its name in the design. */
  step: string;
  /** The name of the statement, or the beginning of the message's subject. */
  what: string;
  /** The module that performs it, over its own connection. */
  by: Keeper;
  /** Variants of the step, identified by a word in its values; each is a crash point of its own. */
  kinds?: readonly string[];
  /** The statement before it, if the step itself has no name. */
  follows?: string;
  /** Whether it is part of a transaction that commits later. */
  isInTransaction?: boolean;
  /** The provocation that causes it, if shoppers do not. */
  provokedBy?: ProvocationName;
}

const sagaSteps = ['authorise', 'capture', 'refund', 'reverse'];

/** Every commit in the processing of an order, and the module that makes it. */
const commits: Step[] = [
  { step: 'Reserve', what: 'inventory-reserve', by: 'inventory' },
  { step: 'Record', what: 'order-record', by: 'order' },
  { step: 'Make key', what: 'order-add-customer-keys', by: 'order', provokedBy: 'order of a person' },
  { step: 'Record a person', what: 'order-record-personal', by: 'order', provokedBy: 'order of a person' },
  { step: 'Refuse', what: 'order-keep-refusals', by: 'order' },
  { step: 'Change', what: 'order-save', by: 'order', kinds: ['cancelled', 'fulfilled', 'returned'] },
  { step: 'Keep', what: 'order-keep-key', by: 'order', provokedBy: 'change without need' },
  { step: 'Adjust', what: 'inventory-adjust', by: 'inventory', provokedBy: 'stock adjusted' },
  { step: 'Deliver', what: 'inventory-settle', by: 'inventory', kinds: ['confirm', 'release', 'fulfil', 'restock'] },
  { step: 'Void', what: 'order-void', by: 'order', provokedBy: 'lost record' },
  { step: 'Checkpoint', what: 'orders-checkpoints-keep', by: 'order' },
  { step: 'Claim', what: 'order-sagas-claim', by: 'order' },
  { step: 'Begin', what: 'payment-begin', by: 'payment', kinds: sagaSteps },
  { step: 'Charge', what: 'payment-simulated-enter', by: 'payment', kinds: ['authorise', 'capture', 'refund', 'void'] },
  { step: 'Settle', what: 'payment-settle', by: 'payment', kinds: sagaSteps },
  {
    ...{ step: 'Move', what: 'order-sagas-move', by: 'order' },
    kinds: ['payment-authorised', 'payment-captured', 'refunded', 'payment-reversed'],
  },
  { step: 'Refund', what: 'order-sagas-start', by: 'order' },
  { step: 'Retry', what: 'order-sagas-retry', by: 'order', provokedBy: 'dead letter tried anew' },
  { step: 'Close', what: 'order-sagas-close', by: 'order', provokedBy: 'dead letter closed' },
  { step: 'Count', what: 'sales-add', by: 'sales' },
  { step: 'Retire', what: 'sales-retire', by: 'sales', isInTransaction: true, provokedBy: 'sales built anew' },
  { step: 'Serve', what: 'sales-serve', by: 'sales', isInTransaction: true, provokedBy: 'sales built anew' },
  { step: 'Switch', what: 'COMMIT', follows: 'sales-serve', by: 'sales', provokedBy: 'sales built anew' },
  { step: 'Accept', what: 'webhooks-accept', by: 'webhooks' },
  { step: 'Take', what: 'webhooks-claim', by: 'webhooks' },
  { step: 'Sent', what: 'webhooks-settle', by: 'webhooks' },
];

/** The commits of the two-phase protocol, which replace the first two. */
const twoPhaseCommits: Step[] = [
  { step: 'Prepare', what: 'PREPARE TRANSACTION', by: 'inventory' },
  { step: 'Record', what: 'order-record', by: 'order' },
  { step: 'Commit', what: 'COMMIT PREPARED', by: 'inventory' },
  { step: 'Abort', what: 'order-branch-decide', by: 'order', provokedBy: 'lost record' },
  { step: 'Roll back', what: 'ROLLBACK PREPARED', by: 'inventory', provokedBy: 'lost record' },
];

const moments = ['before', 'after'] as const;

const shapesInTurn: readonly ProxiedShapeName[] = ['one database', 'two databases', 'split'];

/**
 * With `npm run test:crash`, before and after each commit in each shape. Otherwise one of the two for each commit, in one
 * shape and one variant, chosen by the seed: one run covers every commit, and many runs cover all points.
 */
export const crashPointsOf = (
  shape: ProxiedShapeName,
  protocol: 'flexible' | 'two-phase' = 'flexible',
): CrashPoint[] => {
  const random = randomOf(`${shape} ${protocol}`);
  const isComplete = 'fullRun' in globalThis;
  const all = protocol === 'flexible' ? commits : twoPhaseCommits;
  const inTurns = randomOf(`crash points ${protocol}`).shuffled(all);
  const isHere = (commit: Step): boolean =>
    inTurns.indexOf(commit) % shapesInTurn.length === shapesInTurn.indexOf(shape);
  return all
    .filter((it) => isComplete || isHere(it))
    .flatMap(({ kinds = [undefined], ...commit }) => {
      // If inventory is a separate process, either inventory or its caller is killed.
      const victims: Keeper[] = shape === 'split' && commit.by === 'inventory' ? ['order', 'inventory'] : [commit.by];
      const points = kinds.flatMap((kind) =>
        victims.flatMap((victim) =>
          moments.map((moment): CrashPoint => {
            const named = kind === undefined ? commit : { ...commit, kind, step: `${commit.step} ${kind}` };
            return { shape, of: 'Postgres', ...named, victim, moment };
          }),
        ),
      );
      return isComplete ? points : [random.pick(points)];
    });
};

/** The external calls other than the commits above; all of them in every run. */
export const callPointsOf = (shape: ProxiedShapeName): CrashPoint[] =>
  calls.map((it) => ({ ...it, shape, victim: it.by }));

const calls: Omit<CrashPoint, 'shape' | 'victim'>[] = [
  { step: 'Publish', what: 'cleave.orders.', of: 'NATS', by: 'order', moment: 'before' },
  { step: 'Publish', what: 'cleave.orders.', of: 'NATS', by: 'order', moment: 'after' },
  { step: 'Acknowledge', what: '$JS.ACK.cleave-orders.sales', of: 'NATS', by: 'sales', moment: 'before' },
  { step: 'Acknowledge', what: '$JS.ACK.cleave-orders.webhooks', of: 'NATS', by: 'webhooks', moment: 'before' },
  { step: 'Tell', what: 'POST', of: 'merchant', by: 'webhooks', moment: 'after' },
];
