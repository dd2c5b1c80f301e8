import { hash } from 'node:crypto';
import { paymentMethods, type OrderStatus, type PaymentMethod } from '#contracts';
import type { HistoryEntry } from './order.js';

/** What is asked of payment in a step. */
export type StepName = 'authorise' | 'capture' | 'refund' | 'reverse';

/** What follows the outcome of a step: an entry of the order's history, in the same transaction, and the next step. */
export interface Follow {
  entry?: HistoryEntry['type'];
  /** `park` is for a person to decide. */
  next: StepName | 'end' | 'park';
}

export interface Step {
  succeeded: Follow;
  refused: Follow;
  /** What follows when the deadline of the saga has passed; without it the step is tried for as long as it takes. */
  late?: Follow;
}

interface Definition {
  first: StepName;
  steps: Partial<Record<StepName, Step>>;
}

export type SagaName = 'purchase' | 'purchase-on-account' | 'capture' | 'refund';

type Definitions = Record<SagaName, Record<number, Definition>>;

/**
 * The sagas: what is done in which order, and what undoes it. The stock was held before (the Try of TCC), and an entry
 * that confirms or cancels the order confirms or releases that hold. In a purchase `payment-authorised` is the pivot: what
 * goes wrong before it cancels the order, and what comes after it is tried until it is decided.
 *
 * A saga goes by the version it began with, so a definition that orders may be on is never changed: a new version is
 * added. The old one goes when no order can be cancelled any more that was bought by it: that sends it to `reverse`.
 */
export const definitions: Definitions = {
  /** The money is taken as soon as the order is confirmed. */
  purchase: {
    1: {
      first: 'authorise',
      steps: {
        authorise: {
          succeeded: { entry: 'payment-authorised', next: 'capture' },
          refused: { entry: 'payment-declined', next: 'end' },
          late: { entry: 'payment-declined', next: 'reverse' },
        },
        capture: {
          succeeded: { entry: 'payment-captured', next: 'end' },
          // Refused for good although it was promised: nobody pays for the goods. If they are gone, a person decides.
          refused: { entry: 'payment-failed', next: 'reverse' },
        },
        // Also where a purchase goes whose order is cancelled, from whatever step it has come to.
        reverse: { succeeded: { entry: 'payment-reversed', next: 'end' }, refused: { next: 'park' } },
      },
    },
  },
  /** The money comes when it comes. */
  'purchase-on-account': {
    1: {
      first: 'authorise',
      steps: {
        authorise: {
          succeeded: { entry: 'payment-authorised', next: 'end' },
          refused: { entry: 'payment-declined', next: 'end' },
          late: { entry: 'payment-declined', next: 'reverse' },
        },
        reverse: { succeeded: { entry: 'payment-reversed', next: 'end' }, refused: { next: 'park' } },
      },
    },
  },
  capture: {
    1: {
      first: 'capture',
      steps: { capture: { succeeded: { entry: 'payment-captured', next: 'end' }, refused: { next: 'end' } } },
    },
  },
  refund: {
    1: {
      first: 'refund',
      steps: { refund: { succeeded: { entry: 'refunded', next: 'end' }, refused: { next: 'end' } } },
    },
  },
};

export const purchaseOf = (method: PaymentMethod): SagaName =>
  paymentMethods[method].capture === 'at-once' ? 'purchase' : 'purchase-on-account';

/** Where a saga is. */
export interface SagaStep {
  definition: string;
  version: number;
  step: StepName;
}

/** The sagas that a program knows. */
export class SagaDefinitions {
  readonly known: readonly Omit<SagaStep, 'step'>[];

  constructor(private readonly definitions: Definitions) {
    this.known = Object.entries(definitions).flatMap(([definition, versions]) =>
      Object.keys(versions).map((version) => ({ definition, version: Number(version) })),
    );
  }

  /** A new one goes by the newest version. */
  begin(name: SagaName): SagaStep {
    const versions = this.definitions[name];
    const version = Math.max(...Object.keys(versions).map(Number));
    return { definition: name, version, step: versions[version]!.first };
  }

  /** `undefined` where this program does not know the version any more, or not yet. */
  find({ definition, version, step }: SagaStep): Step | undefined {
    return this.definitions[definition as SagaName]?.[version]?.steps[step];
  }

  step(at: SagaStep): Step {
    const found = this.find(at);
    if (!found)
      throw new Error(`this version of Cleave does not know step ${at.step} of saga ${at.definition} ${at.version}`);
    return found;
  }
}

/** Entries that hold only in one status; what the order becomes by them. Others leave the status as it is. */
export const statusChangeBy: Partial<Record<HistoryEntry['type'], { from: OrderStatus; to: OrderStatus }>> = {
  'payment-authorised': { from: 'pending', to: 'confirmed' },
  'payment-declined': { from: 'pending', to: 'cancelled' },
  'payment-failed': { from: 'confirmed', to: 'cancelled' },
};

/**
 * What names the operation of a step for ever: a UUID of version 8 (RFC 9562). It begins as the id of the saga does, which
 * begins with a time, so that those of one time lie together in an index.
 */
export const operationIdOf = (sagaId: string, step: StepName, round: number): string => {
  const digest = hash('sha256', `${sagaId} ${step} ${round}`, 'hex');
  return `${sagaId.slice(0, 13)}-8${digest.slice(0, 3)}-8${digest.slice(3, 6)}-${digest.slice(6, 18)}`;
};

const shortestWaitMs = 100;
/** More or less. */
export const longestWaitMs = 60_000;

/** Twice as long each time, with some chance in it, so that those that failed together do not come back together. */
export const waitMs = (attempts: number, random: number): number =>
  Math.round(Math.min(longestWaitMs, shortestWaitMs * 2 ** Math.min(attempts, 20)) * (0.75 + random / 2));
