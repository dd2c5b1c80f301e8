import { Injectable } from '@nestjs/common';
import { CleaveError } from '#contracts';
import { replay, type HistoryEntry, type Order, type OrderChange } from '../domain/order.js';
import { asPlaced } from '../domain/placement.js';
import { RelayOutbox } from './relay-outbox.js';

/** What makes a change happen once, kept with the change itself. */
export interface KeyedChange {
  account: string;
  operation: string;
  idempotencyKey: string;
  fingerprint: string;
}

/** Keeps orders through their changes. */
export abstract class ChangeableOrders {
  abstract find(tenant: string, orderId: string): Promise<Order | undefined>;
  /** The entries of an order, oldest first. */
  abstract history(tenant: string, orderId: string): Promise<HistoryEntry[]>;
  /** The version that a keyed change led to. */
  abstract versionOf(
    tenant: string,
    key: Omit<KeyedChange, 'fingerprint'>,
  ): Promise<{ fingerprint: string; version: number } | undefined>;
  /**
   * Writes the change with its event and its key in one transaction.
   * @returns whether it was written: not when the order has changed since it was read, or the key was used meanwhile
   */
  abstract save(tenant: string, before: Order, change: OrderChange, keyed: KeyedChange | undefined): Promise<boolean>;
  /** Resolves once what was read before cannot be lost any more: what is answered without a change waits for it. */
  abstract readIsSafe(): Promise<void>;
}

export interface ChangeRequest {
  tenant: string;
  orderId: string;
  /** The version the caller saw, when it insists on it (`If-Match`). */
  expectedVersion: number | undefined;
  keyed?: KeyedChange | undefined;
}

type Decide = (order: Order, at: Date) => OrderChange | undefined;

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
  async execute(request: ChangeRequest, decide: Decide): Promise<{ order: Order; replayed: boolean }> {
    try {
      return await this.change(request, decide);
    } catch (error) {
      // A refusal goes by what was read as well, and that may have been read where nobody leads any more.
      if (error instanceof CleaveError && error.status < 500) await this.orders.readIsSafe();
      throw error;
    }
  }

  private async change(
    { tenant, orderId, expectedVersion, keyed }: ChangeRequest,
    decide: Decide,
  ): Promise<{ order: Order; replayed: boolean }> {
    for (let tries = 0; tries < maxTries; tries += 1) {
      // In this order: who sees the change that was made under its key sees the key as well.
      const before = await this.orders.find(tenant, orderId);
      if (!before) throw new CleaveError('order-not-found', `There is no order ${orderId}.`);
      const earlier = keyed && (await this.orders.versionOf(tenant, keyed));
      if (earlier) {
        refuseOther(earlier.fingerprint, keyed);
        const order = await this.at(tenant, before, earlier.version);
        await this.orders.readIsSafe();
        return { order, replayed: true };
      }
      if (expectedVersion !== undefined && expectedVersion !== before.version)
        throw new CleaveError('precondition-failed', 'The order has changed since it was read. Read it again.', {
          version: before.version,
        });

      const change = decide(before, new Date());
      if (!change) {
        await this.orders.readIsSafe();
        return { order: before, replayed: false };
      }
      if (await this.orders.save(tenant, before, change, keyed)) {
        this.relay.wake();
        return { order: change.order, replayed: false };
      }
    }
    throw new CleaveError('unavailable', 'The order is being changed by too many others. Try again shortly.');
  }

  /** The order as it was at a version: the answer to the change that led there, told from the history. */
  private async at(tenant: string, order: Order, version: number): Promise<Order> {
    const entries = await this.orders.history(tenant, order.order_id);
    return replay(
      asPlaced(order),
      entries.filter((it) => it.version <= version),
    );
  }
}

const refuseOther = (fingerprint: string, keyed: KeyedChange): void => {
  if (fingerprint === keyed.fingerprint) return;
  throw new CleaveError(
    'idempotency-key-reused',
    'The key was used for another request. Send the same request again, or choose a new key.',
  );
};
