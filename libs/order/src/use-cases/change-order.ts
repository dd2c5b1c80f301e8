import { Injectable } from '@nestjs/common';
import { CleaveError } from '#contracts';
import type { Order, OrderChange } from '../domain/order.js';
import { RelayOutbox } from './relay-outbox.js';

/** The answer to a keyed change, kept with the change itself. */
export interface KeyedChange {
  account: string;
  operation: string;
  idempotencyKey: string;
  fingerprint: string;
}

/** Keeps orders through their changes. */
export abstract class ChangeableOrders {
  abstract find(tenant: string, orderId: string): Promise<Order | undefined>;
  /** What a keyed change was answered with. */
  abstract answerTo(
    tenant: string,
    key: Omit<KeyedChange, 'fingerprint'>,
  ): Promise<{ fingerprint: string; order: Order } | undefined>;
  /**
   * Writes the change with its history entry, outbox row and stored answer in one transaction.
   * @returns whether it was written: not when the order has changed since it was read, or the key was used meanwhile
   */
  abstract save(tenant: string, before: Order, change: OrderChange, keyed: KeyedChange | undefined): Promise<boolean>;
}

export interface ChangeRequest {
  tenant: string;
  orderId: string;
  /** The version the caller saw, when it insists on it (`If-Match`). */
  expectedVersion: number | undefined;
  keyed?: KeyedChange | undefined;
}

/** Often enough for any crowd on one order, and an end to it all the same. */
const maxTries = 50;

/** Changes an order by a decision of the domain, so that concurrent changes of one order follow one another. */
@Injectable()
export class ChangeOrder {
  constructor(
    private readonly orders: ChangeableOrders,
    private readonly relay: RelayOutbox,
  ) {}

  /** @param decide returns `undefined` when the order is already what it should become */
  async execute(
    { tenant, orderId, expectedVersion, keyed }: ChangeRequest,
    decide: (order: Order, at: Date) => OrderChange | undefined,
  ): Promise<{ order: Order; replayed: boolean }> {
    for (let tries = 0; tries < maxTries; tries += 1) {
      // In this order: who sees the change that was made under its key sees the answer to it as well.
      const before = await this.orders.find(tenant, orderId);
      const answer = keyed && (await this.orders.answerTo(tenant, keyed));
      if (answer && keyed) return { order: sameCommand(answer, keyed), replayed: true };

      if (!before) throw new CleaveError('order-not-found', `There is no order ${orderId}.`);
      if (expectedVersion !== undefined && expectedVersion !== before.version)
        throw new CleaveError('precondition-failed', 'The order has changed since it was read. Read it again.', {
          version: before.version,
        });

      const change = decide(before, new Date());
      if (!change) return { order: before, replayed: false };
      if (await this.orders.save(tenant, before, change, keyed)) {
        this.relay.wake();
        return { order: change.order, replayed: false };
      }
    }
    throw new CleaveError('unavailable', 'The order is being changed by too many others. Try again shortly.');
  }
}

const sameCommand = (answer: { fingerprint: string; order: Order }, keyed: KeyedChange): Order => {
  if (answer.fingerprint === keyed.fingerprint) return answer.order;
  throw new CleaveError(
    'idempotency-key-reused',
    'The key was used for another request. Send the same request again, or choose a new key.',
  );
};
