import { Injectable, Logger } from '@nestjs/common';
import { CleaveError, type Decision, type ReplyOf, type RequestOf, type inventoryContract } from '#contracts';
import { arrangeReservations, type ReservationBatch } from '../domain/reservation-batch.js';

type Request = RequestOf<(typeof inventoryContract)['operations']['reserve']>;
type PrepareRequest = RequestOf<(typeof inventoryContract)['operations']['prepare']>;
type Reply = ReplyOf<(typeof inventoryContract)['operations']['reserve']>;

/** Ids of rows, by table. */
interface Rows {
  products: string[];
  reservations: string[];
}

/** A batch has waited too long for a lock, so nothing of it was done. */
export class LockTimeout extends CleaveError {
  constructor({ code, detail, extensions, cause }: CleaveError) {
    super(code, detail, extensions, { cause });
  }
}

/** Decides a batch of reservations in one round trip, atomically. */
export abstract class StockReservations {
  /**
   * Returns one decision per reservation, in the order of the batch, and the products of the batch that exist.
   * @param holdMs after how long a new hold is overdue
   * @param branchId if given, the decisions are only prepared until this branch is finished
   * @throws LockTimeout
   */
  abstract decide(tenant: string, batch: ReservationBatch, holdMs: number, branchId?: string): Promise<Reply>;
  /** Those of the rows that somebody keeps locked: not those that are merely busy. Waits for none of them. */
  abstract locked(tenant: string, rows: Rows): Promise<Rows>;
}

/** How long a batch tries to get locks that nobody is found to keep. */
const patienceMs = 5_000;
/** How long a row that was locked is suspected to be so still. */
export const suspectedMs = 10_000;

/**
 * Reserves stock for a batch of orders. Each order gets all of its stock or none.
 *
 * A batch needs all of its locks at once. If somebody keeps a row locked, for example an operator in a session that was left
 * open, the first batch waits for it in vain, and then only the reservations that need the row are left out. From then on
 * the row is checked before each batch that needs it, so that no batch waits for it again.
 */
@Injectable()
export class ReserveStock {
  private readonly logger = new Logger(ReserveStock.name);
  /** Until when rows are suspected to be locked, by tenant and id. */
  private readonly suspects = new Map<string, number>();

  constructor(private readonly reservations: StockReservations) {}

  async execute(tenant: string, request: Request | PrepareRequest): Promise<Reply> {
    const { reservations } = request;
    // A reservation that is named twice is decided once, and both get that decision.
    const positions = new Map<string, number>();
    const distinct = reservations.filter((it) => {
      if (positions.has(it.reservation_id)) return false;
      positions.set(it.reservation_id, positions.size);
      return true;
    });
    const reply = await this.decide(tenant, distinct, request);
    if (distinct.length === reservations.length) return reply;
    const decisionOf = ({ reservation_id }: { reservation_id: string }) =>
      reply.decisions[positions.get(reservation_id)!] as Decision;
    return { ...reply, decisions: reservations.map(decisionOf) };
  }

  private async decide(
    tenant: string,
    reservations: Request['reservations'],
    request: Request | PrepareRequest,
  ): Promise<Reply> {
    const startedAt = performance.now();
    const locked = await this.lockedSuspects(tenant, reservations);
    for (;;) {
      const open = reservations.filter((it) => !isLocked(it, locked));
      if (open.length < reservations.length && !request.knows_locked) throw othersLock(locked);
      try {
        const reply = await this.decideFree(tenant, open, request);
        if (open.length === reservations.length) return reply;
        const decided = reply.decisions.values();
        const decisions = reservations.map((it): Decision =>
          isLocked(it, locked)
            ? { outcome: 'locked', product_ids: productsOf([it]).filter((id) => locked.has(id)) }
            : decided.next().value!,
        );
        return { ...reply, decisions };
      } catch (error) {
        if (!(error instanceof LockTimeout)) throw error;
        const found = await this.find(tenant, rowsOf(open));
        if (found.size === 0 && performance.now() - startedAt >= patienceMs) throw error;
        for (const id of found) locked.add(id);
      }
    }
  }

  private async decideFree(
    tenant: string,
    open: Request['reservations'],
    request: Request | PrepareRequest,
  ): Promise<Reply> {
    if (open.length === 0) return { decisions: [], products: [] };
    return this.reservations.decide(tenant, arrangeReservations(open), request.hold_ms, branchOf(request));
  }

  private async lockedSuspects(tenant: string, reservations: Request['reservations']): Promise<Set<string>> {
    if (this.suspects.size === 0) return new Set();
    const now = performance.now();
    for (const [suspect, until] of this.suspects) if (until <= now) this.suspects.delete(suspect);
    const isSuspect = (id: string) => this.suspects.has(suspectOf(tenant, id));
    const all = rowsOf(reservations);
    const rows = { products: all.products.filter(isSuspect), reservations: all.reservations.filter(isSuspect) };
    if (rows.products.length + rows.reservations.length === 0) return new Set();
    return this.find(tenant, rows);
  }

  /** @returns the ids of those that are locked, which are suspects from now on; the others are not any more */
  private async find(tenant: string, rows: Rows): Promise<Set<string>> {
    const { products, reservations } = await this.reservations.locked(tenant, rows);
    const found = new Set([...products, ...reservations]);
    const isNew = [...found].some((id) => !this.suspects.has(suspectOf(tenant, id)));
    if (isNew)
      this.logger.warn(`orders are refused, because others keep rows locked (tenant ${tenant}): ${told(found)}`);
    for (const id of [...rows.products, ...rows.reservations])
      if (found.has(id)) this.suspects.set(suspectOf(tenant, id), performance.now() + suspectedMs);
      else this.suspects.delete(suspectOf(tenant, id));
    return found;
  }
}

const branchOf = (request: Request | PrepareRequest): string | undefined =>
  'branch_id' in request ? request.branch_id : undefined;

const productsOf = (reservations: Request['reservations']): string[] => [
  ...new Set(reservations.flatMap((it) => it.lines.map((line) => line.product_id))),
];

const rowsOf = (reservations: Request['reservations']): Rows => ({
  products: productsOf(reservations),
  reservations: reservations.map((it) => it.reservation_id),
});

const isLocked = (it: Request['reservations'][number], locked: ReadonlySet<string>): boolean =>
  locked.size > 0 && (locked.has(it.reservation_id) || it.lines.some((line) => locked.has(line.product_id)));

const suspectOf = (tenant: string, id: string): string => JSON.stringify([tenant, id]);

const mostTold = 10;
const told = (ids: ReadonlySet<string>): string =>
  [...ids].slice(0, mostTold).join(', ') + (ids.size > mostTold ? ` and ${ids.size - mostTold} more` : '');

export const othersLock = (ids: ReadonlySet<string>): CleaveError =>
  new CleaveError('unavailable', `The stock is locked by others: ${told(ids)}. Try again in a moment.`);
