import { Injectable } from '@nestjs/common';
import type { Decision, ReplyOf, RequestOf, inventoryContract } from '#contracts';
import { arrangeReservations, type ReservationBatch } from '../domain/reservation-batch.js';

type Request = RequestOf<(typeof inventoryContract)['operations']['reserve']>;
type Reply = ReplyOf<(typeof inventoryContract)['operations']['reserve']>;

/** Decides a batch of reservations in one round trip, atomically. */
export abstract class StockReservations {
  /**
   * One decision a reservation, in the order of the batch, and what is known of the batch's products.
   * @param holdMs after how long a new hold is overdue
   */
  abstract decide(tenant: string, batch: ReservationBatch, holdMs: number): Promise<Reply>;
}

/** Holds stock for a batch of orders, each all-or-nothing. */
@Injectable()
export class ReserveStock {
  constructor(private readonly reservations: StockReservations) {}

  async execute(tenant: string, { reservations, hold_ms }: Request): Promise<Reply> {
    // A reservation named twice is decided once, and both get the decision.
    const positions = new Map<string, number>();
    const distinct = reservations.filter((it) => {
      if (positions.has(it.reservation_id)) return false;
      positions.set(it.reservation_id, positions.size);
      return true;
    });
    const reply = await this.reservations.decide(tenant, arrangeReservations(distinct), hold_ms);
    if (distinct.length === reservations.length) return reply;
    const decisionOf = ({ reservation_id }: { reservation_id: string }) =>
      reply.decisions[positions.get(reservation_id)!] as Decision;
    return { ...reply, decisions: reservations.map(decisionOf) };
  }
}
