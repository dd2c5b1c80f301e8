import { Injectable } from '@nestjs/common';
import type { ReplyOf, inventoryContract } from '#contracts';
import type { Condition } from '#health';

type Branches = ReplyOf<(typeof inventoryContract)['operations']['in_doubt']>['branches'];

/** Batches that are prepared: the participant's side of a two-phase commit. */
export abstract class PreparedBranches {
  /** Does nothing where it is finished already. */
  abstract finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void>;
  abstract inDoubt(): Promise<Branches>;
}

/** Somebody finishes what is in doubt well before that. */
const alarmMs = 30_000;

/** Does with prepared batches what was decided about them elsewhere; never anything on its own. */
@Injectable()
export class FinishBranches {
  constructor(private readonly branches: PreparedBranches) {}

  execute(branchId: string, outcome: 'commit' | 'rollback'): Promise<void> {
    return this.branches.finish(branchId, outcome);
  }

  inDoubt(): Promise<Branches> {
    return this.branches.inDoubt();
  }

  /** For an operator to watch: what is in doubt locks its products for as long as that. */
  async condition(): Promise<Condition> {
    const ages = (await this.branches.inDoubt()).map((it) => Math.round(it.age_ms));
    const oldestMs = Math.max(0, ...ages);
    return { isDegraded: oldestMs > alarmMs, details: { in_doubt: ages.length, oldest_ms: oldestMs } };
  }
}
