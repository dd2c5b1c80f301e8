import { Injectable } from '@nestjs/common';
import type { Decision, ReplyOf, RequestOf, inventoryContract } from '#contracts';
import { arrangeReservations, type ReservationBatch } from '../domain/reservation-batch.js';

type Request = RequestOf<(typeof inventoryContract)['operations']['reserve']>;
type Reply = ReplyOf<(typeof inventoryContract)['operations']['reserve']>;

/** Decides a batch of reservations in one round trip, atomically. */
export abstract class StockReservations {
  /** One decision a reservation, in the order of the batch, and what is known of the batch's products. */
  abstract decide(tenant: string, batch: ReservationBatch): Promise<Reply>;
}

/** Holds stock for a batch of orders, each all-or-nothing. */
@Injectable()
export class ReserveStock {
  constructor(private readonly reservations: StockReservations) {}

  async execute(tenant: string, { reservations }: Request): Promise<Reply> {
    // A reservation named twice is decided once, and both get the decision.
    const distinct = [...new Map(reservations.map((it) => [it.reservation_id, it])).values()];
    const reply = await this.reservations.decide(tenant, arrangeReservations(distinct));
    if (distinct.length === reservations.length) return reply;
    const decisionOf = new Map(reply.decisions.map((it) => [it.reservation_id, it]));
    return {
      ...reply,
      decisions: reservations.map((it) => decisionOf.get(it.reservation_id) as Decision),
    };
  }
}
