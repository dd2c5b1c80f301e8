import { Injectable } from '@nestjs/common';
import type { Decision, ReplyOf, RequestOf, inventoryContract } from '#contracts';
import { arrangeReservations, type ReservationBatch } from '../domain/reservation-batch.js';

type Request = RequestOf<(typeof inventoryContract)['operations']['reserve']>;
type PrepareRequest = RequestOf<(typeof inventoryContract)['operations']['prepare']>;
type Reply = ReplyOf<(typeof inventoryContract)['operations']['reserve']>;

/** Decides a batch of reservations in one round trip, atomically. */
export abstract class StockReservations {
  /**
   * Returns one decision per reservation, in the order of the batch, and the products of the batch that exist.
   * @param holdMs after how long a new hold is overdue
   * @param branchId if given, the decisions are only prepared until this branch is finished
   */
  abstract decide(tenant: string, batch: ReservationBatch, holdMs: number, branchId?: string): Promise<Reply>;
}

/** Reserves stock for a batch of orders. Each order gets all of its stock or none. */
@Injectable()
export class ReserveStock {
  constructor(private readonly reservations: StockReservations) {}

  async execute(tenant: string, request: Request | PrepareRequest): Promise<Reply> {
    const { reservations, hold_ms } = request;
    // A reservation that is named twice is decided once, and both get that decision.
    const positions = new Map<string, number>();
    const distinct = reservations.filter((it) => {
      if (positions.has(it.reservation_id)) return false;
      positions.set(it.reservation_id, positions.size);
      return true;
    });
    const reply = await this.reservations.decide(tenant, arrangeReservations(distinct), hold_ms, branchOf(request));
    if (distinct.length === reservations.length) return reply;
    const decisionOf = ({ reservation_id }: { reservation_id: string }) =>
      reply.decisions[positions.get(reservation_id)!] as Decision;
    return { ...reply, decisions: reservations.map(decisionOf) };
  }
}

const branchOf = (request: Request | PrepareRequest): string | undefined =>
  'branch_id' in request ? request.branch_id : undefined;
