import { Injectable } from '@nestjs/common';
import type { ReplyOf, RequestOf, inventoryContract } from '#contracts';

type Request = RequestOf<(typeof inventoryContract)['operations']['overdue']>;
type Reply = ReplyOf<(typeof inventoryContract)['operations']['overdue']>;

/** The holds of all tenants that wait for their order longer than they were given. */
export abstract class OverdueHolds {
  abstract find(look: Request): Promise<Reply>;
}

/**
 * Tells which holds were neither confirmed nor released in time. What becomes of them is for the owner of the orders to
 * decide.
 */
@Injectable()
export class FindOverdueHolds {
  constructor(private readonly holds: OverdueHolds) {}

  execute(look: Request): Promise<Reply> {
    return this.holds.find(look);
  }
}
