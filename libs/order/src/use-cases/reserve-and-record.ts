import { Inject, Injectable } from '@nestjs/common';
import { Bulkhead, bisect, isOutage } from '#admission';
import { CleaveError, type ErrorCode, type ReplyOf, type inventoryContract } from '#contracts';
import { newOrderId, placedAtOf, type Order } from '../domain/order.js';
import {
  asPlaced,
  itemsTotalRange,
  placedOrder,
  refusalOf,
  reservationIdOf,
  type PlacementCommand,
  type Refusal,
} from '../domain/placement.js';
import { uuidOfTime } from '../domain/uuid.js';
import type { SealedPersonalData } from '../domain/personal-data.js';
import type { SagaData } from '../domain/saga-moves.js';
import { purchaseOf, type SagaStep } from '../domain/sagas.js';
import { FinishBranches, commitProtocol, type CommitProtocol } from './finish-branches.js';
import { KeepPersonalData, type FoundKeys } from './keep-personal-data.js';
import { RelayOutbox } from './relay-outbox.js';
import { RunSagas } from './run-sagas.js';
import { VoidOrders } from './sweep-holds.js';

/** An admitted request for an order. */
export interface Placement {
  tenant: string;
  account: string;
  idempotencyKey: string | null;
  /** The idempotency key, or a random text without one: the ids of its reservations are derived from it at every attempt. */
  name: string;
  command: PlacementCommand;
  /** Distinguishes commands that use the same key. */
  fingerprint: string;
  /** The trace context of the request, for the events that result from it. */
  traceparent?: string | undefined;
}

/** A placed order or a stored refusal, and whether it was the answer to an earlier request already. */
export type PlacementResult = { replayed: boolean } & ({ order: Order } | { refusal: CleaveError });

/** A refusal that is stored, so that every repeat of the request gets it again. */
export interface StoredRefusal {
  code: ErrorCode;
  detail: string;
  extensions: Record<string, unknown>;
}

/** The stored answer of an idempotency key. */
export type StoredAnswer = { fingerprint: string } & ({ order: Order } | { refusal: StoredRefusal });

/** An order to be recorded, with what makes it unique. */
export interface OrderRecord extends Pick<Placement, 'account' | 'idempotencyKey' | 'fingerprint' | 'traceparent'> {
  order: Order;
  reservationId: string;
  /** Whether an earlier try has reserved its stock, and so may have recorded the order. */
  isRepeat: boolean;
  /** The saga of its payment; undefined for an order that is paid elsewhere. */
  saga?: (SagaStep & { data: SagaData }) | undefined;
}

/** Encrypted personal data by order id; undefined if no order of the batch has any. */
export type SealedByOrder = ReadonlyMap<string, SealedPersonalData> | undefined;

/** How long an order waits for its payment to be authorised, in milliseconds. */
export const payWithin = Symbol('pay within');

type Keyed = Placement & { idempotencyKey: string };
/** A refusal that is stored under a key, for one command. */
export type KeyedRefusal = Pick<Keyed, 'account' | 'idempotencyKey' | 'fingerprint'> & { refusal: StoredRefusal };

/** Stores placed orders, and refusals under their idempotency keys. What it returns is durable, so callers may be told. */
export abstract class PlacedOrders extends VoidOrders {
  /**
   * The stored answer of each key, in the given order; `undefined` for a key that was never used. If several commands used
   * a key at the same time, one may have an order and another a refusal: each gets its own answer.
   */
  abstract answersOf(
    tenant: string,
    requests: readonly Pick<Keyed, 'account' | 'idempotencyKey' | 'fingerprint'>[],
  ): Promise<(StoredAnswer | undefined)[]>;
  /**
   * Records orders with the event that they were placed, in one transaction.
   * @param sealed their encrypted personal data, stored with them but not shown to those who read orders
   * @param branchId the branch of their prepared stock: the same transaction records the decision to commit it
   * @returns the ids of the recorded orders: without those whose id is taken, or whose key has an order or a stored refusal
   */
  abstract record(
    tenant: string,
    records: readonly OrderRecord[],
    sealed?: SealedByOrder,
    branchId?: string,
  ): Promise<ReadonlySet<string>>;
  /** The orders with these ids, by id; `void` for an id that no order will ever have. */
  abstract byId(tenant: string, orderIds: readonly string[]): Promise<ReadonlyMap<string, Order | 'void'>>;
  /** @returns the refusals that were stored: those whose keys had none yet */
  abstract keepRefusals<Kept extends KeyedRefusal>(tenant: string, refusals: readonly Kept[]): Promise<Kept[]>;
}

/** Holds stock in inventory. */
export abstract class StockHolder {
  /** @param branchId if given, the stock is only prepared until this branch is finished */
  abstract reserve(
    tenant: string,
    reservations: readonly {
      reservation_id: string;
      order_id: string;
      lines: PlacementCommand['lines'];
      items_total?: { at_least: number; at_most: number } | undefined;
    }[],
    branchId?: string,
  ): Promise<ReplyOf<(typeof inventoryContract)['operations']['reserve']>>;
  /** Releases a hold that no order will ever use. */
  abstract release(tenant: string, reservationId: string): Promise<void>;
}

/** One attempt to place an order. Another one follows if its hold was released before the order was recorded. */
interface Try {
  placement: Placement;
  attempt: number;
  reservationId: string;
  orderId: string;
}

/** A hold is released only if its request stalled for longer than a hold lasts, so this is more than enough. */
const maxAttempts = 20;

/** Each tenant of a batch gets its own prepared transaction; `max_prepared_transactions` limits those of all instances. */
const mostPrepared = 8;
/** Tenants whose turn comes later are refused: if a call hangs, the last of many would wait for all calls before it. */
const longestWaitMs = 5_000;

/** When to repeat a request whose products are locked. */
const lockedRetryAfterMs = 1_000;

const noKeys: FoundKeys = new Map();

interface Held {
  it: Try;
  record: OrderRecord & Pick<Placement, 'command'>;
  /** Whether no earlier request can have used this order id: it is this try's own, or there is no idempotency key. */
  isOwn: boolean;
}

/** Outcomes of placements so far. */
class Results extends Map<Placement, PlacementResult | Error> {
  /**
   * Tries whose recording may have committed, by order id. If such an order is found, one of them recorded it, or a concurrent
   * repeat of the same request.
   */
  readonly unheard = new Map<string, Try>();
}

/**
 * Reserves stock for a batch of orders in inventory, then records the orders in one statement. Both steps are idempotent, so
 * a batch of a tenant that fails is bisected and retried until the order that cannot be recorded fails alone. Placements
 * that have an outcome keep it: nothing that is recorded is tried again.
 */
@Injectable()
export class ReserveAndRecord {
  private readonly preparing = new Bulkhead({
    // The queue needs no limit of its own, because batches are limited.
    ...{ atOnce: mostPrepared, mostWaiting: Number.POSITIVE_INFINITY, longestWaitMs },
    tooMuch: 'More tenants are placing orders',
  });
  /** Whether the last attempt to record orders succeeded. */
  private canRecord = true;
  /** The attempt in progress to find out whether orders can be recorded again, shared by all tenants. */
  private probe: Promise<unknown> | undefined;

  constructor(
    private readonly orders: PlacedOrders,
    private readonly stock: StockHolder,
    private readonly relay: RelayOutbox,
    private readonly sagas: RunSagas,
    private readonly branches: FinishBranches,
    private readonly personalData: KeepPersonalData,
    @Inject(commitProtocol) private readonly protocol: CommitProtocol,
  ) {}

  /** @returns the outcome of each placement, in the given order; an error concerns that placement alone */
  async execute(placements: readonly Placement[]): Promise<(PlacementResult | Error)[]> {
    const results = new Results();
    await Promise.all(
      [...Map.groupBy(placements, (it) => it.tenant)].map(([tenant, group]) => this.ofTenant(tenant, group, results)),
    );
    return placements.map((it) => results.get(it)!);
  }

  /**
   * Most keys are new, so nothing is looked up in advance: a repeat gets the reservation of the first try, and with it the
   * order; a key that was used for another command is detected when the order is recorded; and a refusal is returned only
   * once it is known that the key has no other answer.
   */
  private async ofTenant(tenant: string, placements: Placement[], results: Results): Promise<void> {
    const fail = (failed: readonly Placement[], error: unknown): void => {
      for (const it of failed) if (!results.has(it)) results.set(it, error as Error);
    };
    const place = () => bisect(placements, (some) => this.place(tenant, some, results), fail);
    try {
      // The halves share one turn of the bulkhead; tenants that it refuses have had no effect.
      await (this.protocol === 'two-phase' ? this.preparing.inTurn(place) : place());
    } catch (error) {
      fail(placements, error);
    }
    await this.lookAgain(tenant, placements, results);
    await this.refuseOthersData(tenant, placements, results);
  }

  /** Looks before an outage is reported: the order may have been recorded, and a repeat can be answered without stock. */
  private async lookAgain(tenant: string, placements: Placement[], results: Results): Promise<void> {
    const isOpen = (it: Placement): boolean => isOutage(results.get(it));
    if (!placements.some(isOpen)) return;
    const unheard = [...results.unheard.values()].filter(({ placement: it }) => it.tenant === tenant && isOpen(it));
    try {
      if (unheard.length > 0) await this.replayRecorded(tenant, unheard, results);
      await this.replayStored(tenant, placements.filter(isOpen), results);
    } catch {
      // The placements keep their original error.
    }
    for (const { placement } of unheard)
      if (isOpen(placement) && !isKeyed(placement)) results.set(placement, notKnown(results.get(placement)));
  }

  private async place(tenant: string, placements: readonly Placement[], results: Results): Promise<void> {
    const open = placements.filter((it) => !results.has(it));
    if (open.length === 0) return;
    // A probe: while orders cannot be recorded, reserving would only keep stock from others until the sweep.
    if (!this.canRecord) await (this.probe ??= this.record(tenant, []).finally(() => (this.probe = undefined)));
    const keys = await this.dataKeysOf(tenant, open, results);
    let tries = open.filter((it) => !results.has(it)).map((it) => newTry(it, 1));
    while (tries.length > 0) {
      const released = await this.reserve(tenant, tries, keys, results);
      tries = await this.again(tenant, released, results);
    }
  }

  /**
   * The data keys of customers who have one. Placements whose customer has no key, or an unusable one, are looked up as
   * repeats first: a repeat needs no key, and must not create one for a customer who was erased. After that, a placement
   * whose personal data cannot be encrypted is refused, before stock is held.
   */
  private async dataKeysOf(tenant: string, placements: Placement[], results: Results): Promise<FoundKeys> {
    const personal = placements.filter((it) => it.command.personal !== null);
    if (personal.length === 0) return noKeys;
    const keys = await this.personalData.keysOf(tenant, [...new Set(personal.map((it) => it.command.customerId))]);
    const faultOf = ({ command }: Placement) => {
      const key = keys.get(command.customerId);
      return key instanceof CleaveError ? key : undefined;
    };
    const open = personal.filter((it) => !keys.has(it.command.customerId) || faultOf(it));
    for (const placement of await this.replayStored(tenant, open, results)) {
      const fault = faultOf(placement);
      if (fault) results.set(placement, fault);
    }
    return keys;
  }

  /**
   * Personal data is not part of the fingerprint, because that is kept when the data is erased. So when a key is used again,
   * the personal data is compared with that of its order.
   */
  private async refuseOthersData(tenant: string, placements: Placement[], results: Results): Promise<void> {
    const repeats = placements.flatMap((placement) => {
      const result = results.get(placement);
      const { personal } = placement.command;
      if (!personal || !result || !('order' in result)) return [];
      const orderId = result.order.order_id;
      // An order that this try may not have recorded itself may be that of a repeat with other data. Without a key there is none.
      const mayBeOfRepeat = isKeyed(placement) && results.unheard.has(orderId);
      if (!result.replayed && !mayBeOfRepeat) return [];
      return [{ placement, orderId, personal }];
    });
    if (repeats.length === 0) return;
    try {
      const differing = await this.personalData.differing(tenant, repeats);
      for (const { placement, orderId } of repeats) if (differing.has(orderId)) results.set(placement, keyReused());
    } catch (error) {
      for (const { placement } of repeats) results.set(placement, error as Error);
    }
  }

  /** @returns the placements without a stored answer */
  private async replayStored(tenant: string, placements: Placement[], results: Results): Promise<Placement[]> {
    const keyed = placements.filter(isKeyed);
    if (keyed.length === 0) return placements;
    const answers = await this.orders.answersOf(tenant, keyed);
    keyed.forEach((placement, index) => {
      const answer = answers[index];
      if (!answer) return;
      // A refusal of another command decides nothing while the order may have been recorded before it.
      const isOfAnother = answer.fingerprint !== placement.fingerprint;
      if (isOfAnother && 'refusal' in answer && isOutage(results.get(placement))) return;
      results.set(placement, replayOf(placement, answer, results));
    });
    return placements.filter((it) => !results.has(it));
  }

  /** @returns the tries whose hold was released */
  private async reserve(tenant: string, tries: Try[], keys: FoundKeys, results: Results): Promise<Try[]> {
    const branchId = this.protocol === 'two-phase' ? uuidOfTime(Date.now()) : undefined;
    const { decisions, products } = await this.endingOnFailure(branchId, () =>
      this.stock.reserve(tenant, requestsOf(tries), branchId),
    );
    const productOf = new Map(products.map((it) => [it.product_id, it]));
    const held: Held[] = [];
    const refused = new Map<Placement, Refusal>();
    const heldBefore: Try[] = [];
    const released: Try[] = [];

    tries.forEach((it, index) => {
      const { placement, reservationId } = it;
      const decision = decisions[index]!;
      if (decision.outcome === 'held') {
        // The order id of the first try of this reservation, which may be an earlier one.
        const order = placedOrder(placement.command, productOf, decision.order_id, placedAtOf(decision.order_id));
        const isRepeat = order.order_id !== it.orderId;
        const record = { ...placement, reservationId, order, isRepeat, saga: this.sagaOf(placement, order) };
        const isOwn = placement.idempotencyKey === null || !isRepeat;
        held.push({ it: { ...it, orderId: order.order_id }, record, isOwn });
      } else if (decision.outcome === 'released') {
        released.push({ ...it, orderId: decision.order_id ?? it.orderId });
      } else if (decision.outcome === 'locked') {
        results.set(placement, stockLocked(decision.product_ids));
      } else {
        refused.set(placement, decision);
        if (decision.outcome !== 'out-of-stock' && decision.order_id !== undefined)
          heldBefore.push({ ...it, orderId: decision.order_id });
      }
    });

    const recorded = await this.endingOnFailure(branchId, () => this.recorded(tenant, held, keys, results, branchId));
    for (const { it, record } of held)
      if (recorded.has(it.orderId)) results.set(it.placement, { order: record.order, replayed: false });
    // First of all: prepared transactions hold locks, and their holds cannot be confirmed yet.
    if (branchId !== undefined) await this.branches.commit(branchId);
    if (recorded.size > 0) this.relay.wake();
    if (refused.size > 0) await this.refuse(tenant, refused, heldBefore, results);
    const lost = held.map(({ it }) => it).filter((it) => !recorded.has(it.orderId));
    if (lost.length > 0) released.push(...(await this.answerLost(tenant, lost, results)));
    return released;
  }

  /**
   * Refuses the placements whose keys have no answer yet; refusals for lack of stock are stored under their keys first.
   * @param heldBefore those of them for whose order an earlier try holds stock: it may be about to be recorded
   */
  private async refuse(
    tenant: string,
    refused: ReadonlyMap<Placement, Refusal>,
    heldBefore: readonly Try[],
    results: Results,
  ): Promise<void> {
    const open = await this.replayStored(tenant, [...refused.keys()], results);
    await this.endHolds(tenant, heldBefore, results);
    const reused = [...refused.keys()].filter(isKeyed).filter((it) => {
      const result = results.get(it);
      return refused.get(it)!.outcome === 'out-of-stock' && result instanceof CleaveError;
    });
    if (reused.length > 0) {
      // Another request for the same command may be about to store that it is out of stock: whichever is stored first is
      // the answer of both.
      await this.orders.keepRefusals(
        tenant,
        reused.map((it) => ({ ...it, refusal: keyReused() })),
      );
      await this.replayStored(tenant, reused, results);
    }
    const toKeep: { placement: Keyed; refusal: CleaveError }[] = [];
    for (const placement of open.filter((it) => !results.has(it))) {
      const decision = refused.get(placement)!;
      const refusal = refusalOf(decision, placement.command);
      if (decision.outcome !== 'out-of-stock') results.set(placement, refusal);
      else if (isKeyed(placement)) toKeep.push({ placement, refusal });
      else results.set(placement, { refusal, replayed: false });
    }
    if (toKeep.length > 0) await this.keepRefusals(tenant, toKeep, results);
  }

  /** Tells refusals once they are stored, so that every repeat of the request gets the same answer. */
  private async keepRefusals(
    tenant: string,
    toKeep: readonly { placement: Keyed; refusal: CleaveError }[],
    results: Results,
  ): Promise<void> {
    const refusals = toKeep.map(({ placement, refusal }) => ({ ...placement, placement, refusal }));
    const stored = new Set(await this.orders.keepRefusals(tenant, refusals));
    for (const { placement, refusal } of stored) results.set(placement, { refusal, replayed: false });
    // The others were refused at the same time, for an equal request or for another command.
    const others = refusals.filter((it) => !stored.has(it)).map((it) => it.placement);
    for (const placement of await this.replayStored(tenant, others, results))
      results.set(placement, new CleaveError('unavailable', 'The refusal could not be stored. Try again.'));
  }

  /** If the work fails, ends the branch: commits it if its orders were recorded after all, and rolls it back otherwise. */
  private async endingOnFailure<T>(branchId: string | undefined, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      // If that fails as well, the recovery of branches in doubt ends it.
      const ending = branchId === undefined ? undefined : this.branches.end(branchId).catch(() => undefined);
      // A caller that gets an outage need not wait for that; a retry in halves needs the locks.
      if (!isOutage(error)) await ending;
      throw error;
    }
  }

  private async recorded(
    tenant: string,
    held: readonly Held[],
    keys: FoundKeys,
    results: Results,
    branchId: string | undefined,
  ): Promise<ReadonlySet<string>> {
    const all = held.map(({ record }) => record);
    const sealed = await this.personalData.seal(tenant, all, keys);
    const records = all.filter((it) => it.command.personal === null || sealed!.has(it.order.order_id));
    if (records.length === 0) return new Set();
    try {
      const recorded = await this.record(tenant, records, sealed, branchId);
      if (records.some((it) => it.saga !== undefined)) this.sagas.wake();
      return recorded;
    } catch (error) {
      const sent = new Set(records.map(({ order }) => order.order_id));
      for (const { it, isOwn } of held) if (isOwn && sent.has(it.orderId)) results.unheard.set(it.orderId, it);
      throw error;
    }
  }

  private async record(...given: Parameters<PlacedOrders['record']>): Promise<ReadonlySet<string>> {
    try {
      const recorded = await this.orders.record(...given);
      this.canRecord = true;
      return recorded;
    } catch (error) {
      if (isOutage(error)) this.canRecord = false;
      throw error;
    }
  }

  /** @returns the tries that came too late: their order ids were declared void */
  private async answerLost(tenant: string, lost: readonly Try[], results: Results): Promise<Try[]> {
    // Either another try of the same request recorded the order, or the order id was declared void, or the key has another
    // answer. In the last case this try's hold belongs to nobody.
    const { declaredVoid, unknown } = await this.replayRecorded(tenant, lost, results);
    const placements = unknown.map((it) => it.placement);
    for (const placement of await this.replayStored(tenant, placements, results))
      results.set(placement, new CleaveError('unavailable', 'The order could not be recorded. Try again.'));
    const answered = unknown.filter((it) => !isOutage(results.get(it.placement)));
    await this.endHolds(tenant, answered, results);
    // Whoever declared an id void may not have released its hold yet, and the next try would lack that stock.
    await this.releaseAll(tenant, declaredVoid);
    return declaredVoid;
  }

  /** Releases holds whose orders will never be recorded, and answers the others with their orders. */
  private async endHolds(tenant: string, tries: readonly Try[], results: Results): Promise<void> {
    try {
      await this.releaseAll(tenant, await this.declareVoid(tenant, tries, results));
    } catch (error) {
      // Their orders may be recorded after all, so an answer that was found before this may be wrong.
      for (const it of tries) results.delete(it.placement);
      throw error;
    }
  }

  /** At once, because a release waits for its deadline if inventory does not answer, and the whole batch for the releases. */
  private async releaseAll(tenant: string, tries: readonly Try[]): Promise<void> {
    await Promise.all(tries.map((it) => this.stock.release(tenant, it.reservationId)));
  }

  /**
   * Makes sure that no order relies on a hold that is about to be released: another try of the same request may have begun
   * to record before the key was answered otherwise, and may have recorded its order by now.
   *
   * @returns the tries whose order ids no order will ever have
   */
  private async declareVoid(tenant: string, tries: readonly Try[], results: Results): Promise<Try[]> {
    if (tries.length === 0) return [];
    const holds = tries.map((it) => ({ order_id: it.orderId, reservation_id: it.reservationId }));
    const isVoid = await this.orders.declareVoid(tenant, holds);
    const recorded = tries.filter((it) => !isVoid.has(it.orderId));
    if (recorded.length > 0) await this.replayRecorded(tenant, recorded, results);
    return tries.filter((it) => isVoid.has(it.orderId));
  }

  /** Retries placements whose hold was released. If its order was recorded and cancelled, that is the answer. */
  private async again(tenant: string, released: Try[], results: Results): Promise<Try[]> {
    if (released.length === 0) return [];
    const { declaredVoid, unknown } = await this.replayRecorded(tenant, released, results);
    const orderless = [...declaredVoid, ...unknown];
    // If the key was answered meanwhile, another try would only hold stock for nothing.
    await this.replayStored(
      tenant,
      orderless.map((it) => it.placement),
      results,
    );
    return orderless.flatMap(({ placement, attempt }) => {
      if (results.has(placement)) return [];
      if (attempt < maxAttempts) return newTry(placement, attempt + 1);
      results.set(
        placement,
        new CleaveError('unavailable', 'The stock held for the order was released again and again. Try again.'),
      );
      return [];
    });
  }

  /**
   * Answers the tries whose order another try has recorded.
   * @returns the others: those whose order id was declared void, and those whose id has no order yet
   */
  private async replayRecorded(
    tenant: string,
    tries: readonly Try[],
    results: Results,
  ): Promise<{ declaredVoid: Try[]; unknown: Try[] }> {
    const ids = tries.map((it) => it.orderId);
    const found = await this.orders.byId(tenant, ids);
    const others: { declaredVoid: Try[]; unknown: Try[] } = { declaredVoid: [], unknown: [] };
    for (const it of tries) {
      const order = found.get(it.orderId);
      if (order === undefined) others.unknown.push(it);
      else if (order === 'void') others.declaredVoid.push(it);
      else results.set(it.placement, replayed(it.placement, order, results));
    }
    return others;
  }

  private sagaOf({ command, traceparent }: Placement, order: Order): OrderRecord['saga'] {
    const { payment } = command;
    if (!payment) return undefined;
    const { total_minor: amount_minor, currency } = order;
    const data = { ...payment, amount_minor, currency, ...(traceparent !== undefined && { traceparent }) };
    return { ...this.sagas.begin(purchaseOf(payment.method)), data };
  }
}

const requestsOf = (tries: readonly Try[]): Parameters<StockHolder['reserve']>[1] =>
  tries.map(({ reservationId, orderId, placement: { command } }) => ({
    reservation_id: reservationId,
    order_id: orderId,
    lines: command.lines,
    items_total: itemsTotalRange(command),
  }));

const isKeyed = (placement: Placement): placement is Keyed => placement.idempotencyKey !== null;

const newTry = (placement: Placement, attempt: number): Try => {
  const { tenant, account, name, fingerprint } = placement;
  const reservationId = reservationIdOf(tenant, account, name, fingerprint, attempt);
  return { placement, attempt, reservationId, orderId: newOrderId(Date.now()) };
};

const replayed = ({ idempotencyKey }: Placement, order: Order, { unheard }: Results): PlacementResult => ({
  order: asPlaced(order),
  replayed: idempotencyKey !== null && !unheard.has(order.order_id),
});

const replayOf = (placement: Placement, answer: StoredAnswer, results: Results): PlacementResult | Error => {
  if (answer.fingerprint !== placement.fingerprint) return keyReused();
  if ('order' in answer) return replayed(placement, answer.order, results);
  const { code, detail, extensions } = answer.refusal;
  const refusal = new CleaveError(code, detail, extensions);
  return code === 'idempotency-key-reused' ? refusal : { refusal, replayed: true };
};

const notKnown = (cause: unknown): CleaveError =>
  new CleaveError(
    'unavailable',
    'It is not known whether the order was placed. Look for it before you repeat it; with an Idempotency-Key it is safe to repeat.',
    {},
    { cause },
  );

const stockLocked = (productIds: readonly string[]): CleaveError => {
  const what =
    productIds.length > 0
      ? 'The stock of products of this order'
      : 'The stock held by an earlier request for this order';
  return new CleaveError(
    'unavailable',
    `${what} cannot be changed at the moment, because others keep it locked. This request has had no effect; repeat it later.`,
    { retry_after_ms: lockedRetryAfterMs, ...(productIds.length > 0 && { product_ids: productIds }) },
  );
};

const keyReused = (): CleaveError =>
  new CleaveError(
    'idempotency-key-reused',
    'The key was used for another order. Send the same order again, or choose a new key.',
  );
