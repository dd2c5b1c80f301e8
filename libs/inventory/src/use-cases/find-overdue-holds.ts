import { Injectable } from '@nestjs/common';
import type { ReplyOf, RequestOf, inventoryContract } from '#contracts';

type Request = RequestOf<(typeof inventoryContract)['operations']['overdue']>;
type Reply = ReplyOf<(typeof inventoryContract)['operations']['overdue']>;

/** The holds of all tenants that have waited for their order longer than they may. */
export abstract class OverdueHolds {
  abstract find(look: Request): Promise<Reply>;
}

/**
 * Finds the holds that were neither confirmed nor released in time. The module that owns the orders decides what becomes of
 * them.
 */
@Injectable()
export class FindOverdueHolds {
  constructor(private readonly holds: OverdueHolds) {}

  execute(look: Request): Promise<Reply> {
    return this.holds.find(look);
  }
}
