import { randomUUID } from 'node:crypto';
import { Injectable, Optional } from '@nestjs/common';
import { CleaveError, type PlaceOrderRequest } from '#contracts';
import { within } from '#periodic';
import { Metrics, Traces, annotateWork, currentTrace } from '#telemetry';
import { canonicalPlacement, commandOf, fingerprintOf } from '../domain/placement.js';
import { Batcher, type Patience } from './batcher.js';
import { ObservedBatches } from './observed-batches.js';
import { ReserveAndRecord, type Placement, type PlacementResult } from './reserve-and-record.js';

/** Orders, lines and bytes of one batch; orders and bytes that may wait for the next one, and as many again that wait for an equal key. */
const batchLimits = { orders: 250, lines: 5_000, bytes: 4_194_304, waiting: 5_000, waitingBytes: 67_108_864 };
/** A second lane, so that one batch is written while the other is read, and a slow batch does not block everyone. */
const lanes = 2;
const slowMs = 20;
/** How long a request waits for one with the same key. */
const turnWithinMs = 10_000;

/**
 * Places an order. Both forms of the request become one command; requests with the same idempotency key wait for each
 * other; orders that arrive at about the same time are placed as one batch, which costs hardly more than a single order.
 */
@Injectable()
export class PlaceOrder {
  /** The requests in progress, by tenant, account and idempotency key. */
  private readonly underWay = new Map<string, Promise<unknown>>();
  private readonly waitingForTurn = { orders: 0, bytes: 0 };
  private readonly batcher: Batcher<Placement, PlacementResult>;

  constructor(reserveAndRecord: ReserveAndRecord, @Optional() metrics?: Metrics, @Optional() traces?: Traces) {
    const { orders, lines, bytes, waiting, waitingBytes } = batchLimits;
    this.batcher = new Batcher(
      {
        lanes,
        slowMs,
        batch: { items: orders, lines, bytes },
        waiting: { items: waiting, lines: Number.POSITIVE_INFINITY, bytes: waitingBytes },
      },
      (placements) => observed.during(placements, () => reserveAndRecord.execute(placements)),
    );
    const observed = new ObservedBatches(this.batcher, metrics, traces);
  }

  /**
   * @param patience of the caller: a request is given up if it waits beyond its deadline for an equal key or a batch, or if
   *   its caller has gone when its batch starts
   * @throws CleaveError for a refusal that is not stored: the same key may be used again once its cause is gone
   */
  async execute(
    tenant: string,
    account: string,
    request: PlaceOrderRequest,
    idempotencyKey: string | null,
    patience: Patience = {},
  ): Promise<PlacementResult> {
    const result = await this.place(tenant, account, request, idempotencyKey, patience);
    annotateWork({ tenant, ...('order' in result && { orderId: result.order.order_id }) });
    return result;
  }

  private async place(
    tenant: string,
    account: string,
    request: PlaceOrderRequest,
    idempotencyKey: string | null,
    patience: Patience,
  ): Promise<PlacementResult> {
    const command = commandOf(request);
    const canonical = canonicalPlacement(command);
    const name = idempotencyKey ?? randomUUID();
    const fingerprint = fingerprintOf(canonical);
    const placement = { tenant, account, idempotencyKey, name, command, fingerprint, traceparent: currentTrace() };
    const personalBytes = command.personal ? Buffer.byteLength(JSON.stringify(command.personal)) : 0;
    const size = { lines: command.lines.length, bytes: Buffer.byteLength(canonical) + personalBytes };
    if (idempotencyKey === null) return this.batcher.add(placement, size, patience);

    // Requests with equal keys run one after another in this process: the second finds the stored answer of the first.
    const slot = JSON.stringify([tenant, account, idempotencyKey]);
    const giveUpAt = Math.min(Date.now() + turnWithinMs, patience.deadlineMs ?? Number.POSITIVE_INFINITY);
    for (let before = this.underWay.get(slot); before; before = this.underWay.get(slot))
      await this.turn(before, giveUpAt, size.bytes);
    const placing = this.batcher.add(placement, size, patience);
    const ended = () => this.underWay.delete(slot);
    this.underWay.set(slot, placing.then(ended, ended));
    return placing;
  }

  /** Waits for the request before. Several may wait for the same one; the first to continue is the next in progress. */
  private async turn(before: Promise<unknown>, giveUpAtMs: number, bytes: number): Promise<void> {
    const { waitingForTurn } = this;
    const { waiting, waitingBytes } = batchLimits;
    if (waitingForTurn.orders >= waiting || waitingForTurn.bytes + bytes > waitingBytes) throw inProgress();
    waitingForTurn.orders += 1;
    waitingForTurn.bytes += bytes;
    try {
      // `before` never rejects.
      await within(giveUpAtMs - Date.now(), before).catch(() => {
        throw inProgress();
      });
    } finally {
      waitingForTurn.orders -= 1;
      waitingForTurn.bytes -= bytes;
    }
  }
}

const inProgress = (): CleaveError =>
  new CleaveError(
    'request-in-progress',
    'Another request with this Idempotency-Key is still running. Send the same request again in a moment.',
  );
