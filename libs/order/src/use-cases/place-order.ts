import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { CleaveError, type ErrorCode, type PlaceOrderRequest, type ReplyOf, type inventoryContract } from '#contracts';
import type { Order } from '../domain/order.js';
import { newOrderId } from '../domain/order.js';
import {
  asPlaced,
  commandOf,
  fingerprintOf,
  itemsTotalRange,
  placedOrder,
  refusalOfTotal,
  reservationIdOf,
  type PlacementCommand,
} from '../domain/placement.js';
import { Batcher } from './batcher.js';
import { RelayOutbox } from './relay-outbox.js';

/** An order to be recorded, with what makes it unique. */
export interface Placement {
  order: Order;
  account: string;
  idempotencyKey: string | null;
  fingerprint: string;
  reservationId: string;
}

/** A refusal that is kept, so that every repeat of the request gets it again. */
export interface StoredRefusal {
  code: ErrorCode;
  detail: string;
  extensions: Record<string, unknown>;
}

/** What a key was answered with. */
export type StoredAnswer = { fingerprint: string } & ({ order: Order } | { refusal: StoredRefusal });

export interface KeyedRequest {
  account: string;
  idempotencyKey: string;
}

/** Keeps placed orders, and refusals under their keys. */
export abstract class PlacedOrders {
  /** What each of the keys was answered with, in the order given; `undefined` for a key never seen. */
  abstract answersOf(tenant: string, requests: readonly KeyedRequest[]): Promise<(StoredAnswer | undefined)[]>;
  /**
   * Records orders with their first history entry and outbox row in one transaction.
   * @returns the ids of those recorded; the others lost on their key to an order recorded before
   */
  abstract record(tenant: string, placements: readonly Placement[]): Promise<ReadonlySet<string>>;
  /** The orders recorded for these reservations, by reservation. */
  abstract byReservation(tenant: string, reservationIds: readonly string[]): Promise<ReadonlyMap<string, Order>>;
  abstract keepRefusals(
    tenant: string,
    refusals: readonly (KeyedRequest & { fingerprint: string; refusal: StoredRefusal })[],
  ): Promise<void>;
}

/** Holds stock, in inventory. */
export abstract class StockHolder {
  abstract reserve(
    tenant: string,
    reservations: readonly {
      reservation_id: string;
      lines: PlacementCommand['lines'];
      items_total?: { at_least: number; at_most: number } | undefined;
      deadline_at: Date;
    }[],
  ): Promise<ReplyOf<(typeof inventoryContract)['operations']['reserve']>>;
  /** Gives back a hold that no order will ever claim. */
  abstract release(tenant: string, reservationId: string): Promise<void>;
}

/** A placed order or a kept refusal, and whether an earlier request got it first. */
export type PlacementResult = { replayed: boolean } & ({ order: Order } | { refusal: CleaveError });

interface Request {
  tenant: string;
  account: string;
  idempotencyKey: string | null;
  command: PlacementCommand;
  fingerprint: string;
  reservationId: string;
  attempt: number;
}

/** How long a hold waits for its order before anybody may ask what became of it. */
const holdForMs = 10 * 60_000;
const maxAttempts = 5;
/** How long a request waits for one with the same key. */
const turnWithinMs = 10_000;

/** Places orders: reserves their stock, then records them, in batches of what arrives together. */
@Injectable()
export class PlaceOrder {
  private readonly inFlight = new Map<string, Promise<unknown>>();
  private readonly batcher = new Batcher<Request, PlacementResult>(
    { lanes: 2, items: 250, weight: 5_000, queued: 10_000 },
    (request) => request.command.lines.length,
    (requests) => this.placeBatch(requests),
  );

  constructor(
    private readonly orders: PlacedOrders,
    private readonly stock: StockHolder,
    private readonly relay: RelayOutbox,
  ) {}

  /** @throws CleaveError for a refusal that is not kept: the same key may be used again once its cause is gone */
  async execute(
    tenant: string,
    account: string,
    request: PlaceOrderRequest,
    idempotencyKey: string | null,
  ): Promise<PlacementResult> {
    const command = commandOf(request);
    const fingerprint = fingerprintOf(command);
    const reservationId =
      idempotencyKey === null ? randomUUID() : reservationIdOf(tenant, account, idempotencyKey, fingerprint, 1);
    const item = { tenant, account, idempotencyKey, command, fingerprint, reservationId, attempt: 1 };
    if (idempotencyKey === null) return this.batcher.add(item);

    // Equal keys in this process follow one another: the second finds the stored answer of the first.
    const slot = JSON.stringify([tenant, account, idempotencyKey]);
    const giveUpAt = Date.now() + turnWithinMs;
    for (let before = this.inFlight.get(slot); before; before = this.inFlight.get(slot))
      if (!(await settlesBy(giveUpAt, before)))
        throw new CleaveError(
          'request-in-progress',
          'Another request with this Idempotency-Key is still running. Send the same request again in a moment.',
        );
    const placing = this.batcher.add(item);
    this.inFlight.set(
      slot,
      placing.then(
        () => this.inFlight.delete(slot),
        () => this.inFlight.delete(slot),
      ),
    );
    return placing;
  }

  private async placeBatch(requests: Request[]): Promise<(PlacementResult | Error)[]> {
    const results = new Map<Request, PlacementResult | Error>();
    const tenants = await Promise.allSettled(
      [...Map.groupBy(requests, (it) => it.tenant)].map(([tenant, group]) =>
        this.placeOfTenant(tenant, group, results),
      ),
    );
    // Not before all of them have ended: the batch is tried again in halves.
    const failed = tenants.find((it) => it.status === 'rejected');
    if (failed) throw failed.reason as Error;
    return requests.map((it) => results.get(it)!);
  }

  private async placeOfTenant(
    tenant: string,
    requests: Request[],
    results: Map<Request, PlacementResult | Error>,
  ): Promise<void> {
    try {
      let open = await this.replayStored(tenant, requests, results);
      for (let round = 1; open.length > 0; round += 1) {
        if (round > maxAttempts)
          throw new CleaveError('unavailable', 'The stock held for the order kept being released.');
        open = await this.reserveAndRecord(tenant, open, results);
      }
    } catch (error) {
      if (!isOutage(error)) throw error;
      // Who was answered before it keeps the answer: the order is recorded.
      for (const request of requests) if (!results.has(request)) results.set(request, error);
    }
  }

  /** @returns the requests that nobody has answered before */
  private async replayStored(
    tenant: string,
    requests: Request[],
    results: Map<Request, PlacementResult | Error>,
  ): Promise<Request[]> {
    const keyed = requests.filter(isKeyed);
    if (keyed.length === 0) return requests;
    const answers = await this.orders.answersOf(tenant, keyed);
    keyed.forEach((request, index) => {
      const answer = answers[index];
      if (answer) results.set(request, replayOf(request, answer));
    });
    return requests.filter((it) => !results.has(it));
  }

  /** @returns the requests whose hold had been released meanwhile, to be tried anew under another reservation */
  private async reserveAndRecord(
    tenant: string,
    requests: Request[],
    results: Map<Request, PlacementResult | Error>,
  ): Promise<Request[]> {
    const now = Date.now();
    const { decisions, products } = await this.stock.reserve(
      tenant,
      requests.map(({ reservationId, command }) => ({
        reservation_id: reservationId,
        lines: command.lines,
        items_total: itemsTotalRange(command),
        deadline_at: new Date(now + holdForMs),
      })),
    );
    const productOf = new Map(products.map((it) => [it.product_id, it]));
    const placements = new Map<Request, Placement>();
    const refusals: (KeyedRequest & { fingerprint: string; refusal: StoredRefusal })[] = [];
    const released: Request[] = [];

    requests.forEach((request, index) => {
      const decision = decisions[index]!;
      switch (decision.outcome) {
        case 'held': {
          const order = placedOrder(request.command, productOf, newOrderId(now), new Date(now));
          placements.set(request, { ...request, order });
          break;
        }
        case 'released':
          released.push(nextAttempt(request));
          break;
        case 'out-of-stock': {
          const refusal = outOfStock(decision.shortages);
          if (isKeyed(request)) refusals.push({ ...request, refusal });
          results.set(request, { refusal: errorOf(refusal), replayed: false });
          break;
        }
        case 'unknown-product':
          results.set(
            request,
            new CleaveError('unknown-product', `There is no product ${decision.product_ids.join(', ')}.`, {
              product_ids: decision.product_ids,
            }),
          );
          break;
        case 'currency-mismatch':
          results.set(
            request,
            new CleaveError(
              'currency-mismatch',
              `The products are priced in ${decision.currencies.join(' and ')}. Place an order for each currency.`,
              { currencies: decision.currencies },
            ),
          );
          break;
        case 'total-outside':
          results.set(request, refusalOfTotal(request.command, decision.items_total_minor));
          break;
      }
    });

    if (refusals.length > 0) await this.orders.keepRefusals(tenant, refusals);
    if (placements.size > 0) await this.record(tenant, placements, results);
    return released;
  }

  private async record(
    tenant: string,
    placements: ReadonlyMap<Request, Placement>,
    results: Map<Request, PlacementResult | Error>,
  ): Promise<void> {
    const recorded = await this.orders.record(tenant, [...placements.values()]);
    this.relay.wake();
    const lost: Request[] = [];
    for (const [request, { order }] of placements) {
      if (recorded.has(order.order_id)) results.set(request, { order, replayed: false });
      else lost.push(request);
    }
    if (lost.length === 0) return;
    // Either the same request has been recorded already, by whoever held the same reservation, or another command took
    // the key: then this one's hold belongs to nobody and goes back.
    const orders = await this.orders.byReservation(
      tenant,
      lost.map((it) => it.reservationId),
    );
    const outrun: Request[] = [];
    for (const request of lost) {
      const order = orders.get(request.reservationId);
      if (order) results.set(request, { order: asPlaced(order), replayed: request.idempotencyKey !== null });
      else outrun.push(request);
    }
    for (const request of await this.replayStored(tenant, outrun, results))
      results.set(request, new CleaveError('unavailable', 'The order could not be recorded. Try again.'));
    for (const request of outrun)
      if (!isOutage(results.get(request))) await this.stock.release(tenant, request.reservationId);
  }
}

const isOutage = (result: unknown): result is CleaveError => result instanceof CleaveError && result.status === 503;

/** @param work never rejects */
const settlesBy = async (atMs: number, work: Promise<unknown>): Promise<boolean> => {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, atMs - Date.now(), false);
  return Promise.race([work.then(() => true), late]).finally(() => clearTimeout(timer));
};

const isKeyed = <R extends { idempotencyKey: string | null }>(request: R): request is R & { idempotencyKey: string } =>
  request.idempotencyKey !== null;

const nextAttempt = (request: Request): Request => {
  const attempt = request.attempt + 1;
  const reservationId =
    request.idempotencyKey === null
      ? randomUUID()
      : reservationIdOf(request.tenant, request.account, request.idempotencyKey, request.fingerprint, attempt);
  return Object.assign(request, { attempt, reservationId });
};

const replayOf = (request: Request, answer: StoredAnswer): PlacementResult | Error => {
  if (answer.fingerprint !== request.fingerprint)
    return new CleaveError(
      'idempotency-key-reused',
      'The key was used for another order. Send the same order again, or choose a new key.',
    );
  if ('order' in answer) return { order: asPlaced(answer.order), replayed: true };
  return { refusal: errorOf(answer.refusal), replayed: true };
};

const outOfStock = (
  shortages: readonly { product_id: string; requested: number; available: number }[],
): StoredRefusal => ({
  code: 'out-of-stock',
  detail: shortages
    .map((it) => `${it.requested} of ${it.product_id} were asked for and ${it.available} are available`)
    .join('; '),
  extensions: { products: shortages },
});

const errorOf = ({ code, detail, extensions }: StoredRefusal): CleaveError => new CleaveError(code, detail, extensions);
