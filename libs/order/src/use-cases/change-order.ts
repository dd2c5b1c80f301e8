import { Injectable } from '@nestjs/common';
import { CleaveError } from '#contracts';
import { noSuchOrder, replay, type HistoryEntry, type Order, type OrderChange } from '../domain/order.js';
import { asPlaced } from '../domain/placement.js';
import { RelayOutbox } from './relay-outbox.js';

/** The idempotency key of a change, stored in the same transaction. */
export interface KeyedChange {
  account: string;
  operation: string;
  idempotencyKey: string;
  fingerprint: string;
}

export interface ReadableOrders {
  find(tenant: string, orderId: string): Promise<Order | undefined>;
  /** The next page of entries of an order after the version `after`, oldest first. */
  history(tenant: string, orderId: string, after: number): Promise<HistoryEntry[]>;
  /** The version that a keyed change led to, or at which it turned out to be unnecessary. */
  versionOf(
    tenant: string,
    key: Omit<KeyedChange, 'fingerprint'>,
  ): Promise<{ fingerprint: string; version: number } | undefined>;
}

/** Stores the changes of orders. */
export abstract class ChangeableOrders {
  /** Reads over one connection. Resolves once the result cannot be lost any more, if `isTold` says that it is told. */
  abstract readSafely<T>(work: (orders: ReadableOrders) => Promise<T>, isTold: (read: T) => boolean): Promise<T>;
  /**
   * Writes the change with its event and its key in one transaction.
   * @returns whether it was written: not when the order has changed since it was read, or the key was used meanwhile
   */
  abstract save(tenant: string, before: Order, change: OrderChange, keyed: KeyedChange | undefined): Promise<boolean>;
  /**
   * Stores the key of a change that was unnecessary, with the order as it was found.
   * @returns whether it was stored: not when the key was used meanwhile
   */
  abstract keepKey(tenant: string, found: Order, keyed: KeyedChange): Promise<boolean>;
}

export interface ChangeRequest {
  tenant: string;
  orderId: string;
  /** The order versions that the caller accepts (`If-Match`). */
  expectedVersions: readonly number[] | undefined;
  keyed?: KeyedChange | undefined;
}

/** @returns `undefined` when the order is already what it should become */
export type Decide = (order: Order, at: Date) => OrderChange | undefined;

/** Enough for any number of concurrent changes of one order, but finite. */
const maxTries = 50;

/** Changes an order by a function of the domain. Concurrent changes of one order are applied one after the other. */
@Injectable()
export class ChangeOrder {
  constructor(
    private readonly orders: ChangeableOrders,
    private readonly relay: RelayOutbox,
  ) {}

  async execute(request: ChangeRequest, decide: Decide): Promise<{ order: Order; replayed: boolean }> {
    const { tenant, keyed } = request;
    for (let tries = 0; tries < maxTries; tries += 1) {
      const found = await this.orders.readSafely((orders) => look(orders, request, decide), isTold);
      if ('refusal' in found) throw found.refusal;
      if ('answer' in found) return found.answer;
      if ('already' in found) {
        const { already } = found;
        if (!keyed || (await this.orders.keepKey(tenant, already, keyed))) return { order: already, replayed: false };
        continue;
      }
      const { before, change } = found;
      if (await this.orders.save(tenant, before, change, keyed)) {
        this.relay.wake();
        return { order: change.order, replayed: false };
      }
    }
    const detail = 'Too many requests are changing the order at the same time. Try again shortly.';
    throw new CleaveError('unavailable', detail, { retry_after_ms: 1_000 });
  }
}

/** What to do after reading. */
type Found =
  | { answer: { order: Order; replayed: boolean } }
  | { refusal: CleaveError }
  | { already: Order }
  | { before: Order; change: OrderChange };

/** A change proves by its own commit that what it builds on was durable; an answer without a commit has to wait for that. */
const isTold = (found: Found): boolean => !('change' in found);

const look = async (orders: ReadableOrders, request: ChangeRequest, decide: Decide): Promise<Found> => {
  try {
    return await decided(orders, request, decide);
  } catch (error) {
    if (error instanceof CleaveError && error.status < 500) return { refusal: error };
    throw error;
  }
};

const decided = async (
  orders: ReadableOrders,
  { tenant, orderId, expectedVersions, keyed }: ChangeRequest,
  decide: Decide,
): Promise<Found> => {
  // In this order: if the change made under the key is visible, so is the key.
  const before = await orders.find(tenant, orderId);
  if (!before) throw noSuchOrder(orderId);
  const earlier = keyed && (await orders.versionOf(tenant, keyed));
  if (earlier) {
    refuseOtherRequest(earlier.fingerprint, keyed.fingerprint);
    return { answer: { order: await asAt(orders, tenant, before, earlier.version), replayed: true } };
  }
  if (expectedVersions && !expectedVersions.includes(before.version))
    throw new CleaveError('precondition-failed', 'The order has changed since it was read. Read it again.', {
      version: before.version,
    });
  const change = decide(before, new Date());
  return change ? { before, change } : { already: before };
};

/** The order as it was at a version, rebuilt from its history page by page: the answer to the change that led there. */
const asAt = async (orders: ReadableOrders, tenant: string, order: Order, version: number): Promise<Order> => {
  let found = asPlaced(order);
  while (found.version < version) {
    const page = await orders.history(tenant, order.order_id, found.version);
    const entries = page.filter((it) => it.version <= version);
    // Each entry leads from one version to the next: with one missing, the answer would be wrong.
    if (entries.at(-1)?.version !== found.version + entries.length)
      throw new Error(`order ${order.order_id} lacks an entry between the versions ${found.version} and ${version}`);
    found = replay(found, entries);
  }
  return found;
};

/** @throws CleaveError `idempotency-key-reused` if the key was used for a request with another fingerprint */
export const refuseOtherRequest = (used: string | undefined, fingerprint: string): void => {
  if (used === fingerprint) return;
  throw new CleaveError(
    'idempotency-key-reused',
    'The key was used for another request. Send the same request again, or choose a new key.',
  );
};
