import { hash } from 'node:crypto';
import { paymentMethods, type OrderStatus, type PaymentMethod } from '#contracts';
import type { HistoryEntry } from './order.js';

/** What is asked of payment in a step. */
export type StepName = 'authorise' | 'capture' | 'refund' | 'reverse';

/** What follows the outcome of a step: an entry in the order's history, in the same transaction, and the next step. */
export interface Follow {
  entry?: HistoryEntry['type'];
  /** `park` leaves it to a person to decide. */
  next: StepName | 'end' | 'park';
}

export interface Step {
  succeeded: Follow;
  refused: Follow;
  /** What follows once the deadline of the saga has passed; without it, the step is retried for as long as it takes. */
  late?: Follow;
}

interface Definition {
  first: StepName;
  steps: Partial<Record<StepName, Step>>;
}

export type SagaName = 'purchase' | 'purchase-on-account' | 'capture' | 'refund';

type Definitions = Record<SagaName, Record<number, Definition>>;

/**
 * The sagas: which steps they take, in which order, and what compensates them. The stock was held before (the Try of TCC);
 * an entry that confirms or cancels the order also confirms or releases that hold. In a purchase `payment-authorised` is the
 * pivot: a failure before it cancels the order, and the steps after it are retried until they are decided.
 *
 * A saga keeps the version that it began with, so a definition that orders may use is never changed; a new version is added.
 * An old one may be removed once no order bought with it can be cancelled any more, because cancelling leads to `reverse`.
 */
export const definitions: Definitions = {
  /** The money is captured as soon as the order is confirmed. */
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
          // Refused for good although it was authorised, so nobody pays for the goods. If they are gone, a person decides.
          refused: { entry: 'payment-failed', next: 'reverse' },
        },
        // Cancelling an order also sends its purchase here, from whatever step it has reached.
        reverse: { succeeded: { entry: 'payment-reversed', next: 'end' }, refused: { next: 'park' } },
      },
    },
  },
  /** The money is captured later, when it arrives. */
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

/** The position of a saga. */
export interface SagaStep {
  definition: string;
  version: number;
  step: StepName;
}

/** The saga definitions that this program knows. */
export class SagaDefinitions {
  readonly known: readonly Omit<SagaStep, 'step'>[];

  constructor(private readonly definitions: Definitions) {
    this.known = Object.entries(definitions).flatMap(([definition, versions]) =>
      Object.keys(versions).map((version) => ({ definition, version: Number(version) })),
    );
  }

  /** A new saga uses the newest version. */
  begin(name: SagaName): SagaStep {
    const versions = this.definitions[name];
    const version = Math.max(...Object.keys(versions).map(Number));
    return { definition: name, version, step: versions[version]!.first };
  }

  /** `undefined` if this program does not know the version, or not any more. */
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

/** Entries that require one status and lead to another. Other entries leave the status unchanged. */
export const statusChangeBy: Partial<Record<HistoryEntry['type'], { from: OrderStatus; to: OrderStatus }>> = {
  'payment-authorised': { from: 'pending', to: 'confirmed' },
  'payment-declined': { from: 'pending', to: 'cancelled' },
  'payment-failed': { from: 'confirmed', to: 'cancelled' },
};

/**
 * The id of a step's operation, the same for ever: a UUID of version 8 (RFC 9562). It begins like the id of the saga, and
 * that of a purchase begins with a timestamp, so that operations of the same time are close together in an index.
 */
export const operationIdOf = (sagaId: string, step: StepName, round: number): string => {
  const digest = hash('sha256', `${sagaId} ${step} ${round}`, 'hex');
  return `${sagaId.slice(0, 13)}-8${digest.slice(0, 3)}-8${digest.slice(3, 6)}-${digest.slice(6, 18)}`;
};

const shortestWaitMs = 100;
/** Before jitter. */
export const longestWaitMs = 60_000;

/** Exponential backoff with jitter, so that sagas that failed together are not retried together. */
export const waitMs = (attempts: number, random: number): number =>
  Math.round(Math.min(longestWaitMs, shortestWaitMs * 2 ** Math.min(attempts, 20)) * (0.75 + random / 2));
