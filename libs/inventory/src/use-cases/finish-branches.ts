import { Injectable } from '@nestjs/common';
import type { ReplyOf, inventoryContract } from '#contracts';
import type { Condition } from '#health';

type Branches = ReplyOf<(typeof inventoryContract)['operations']['in_doubt']>['branches'];

/** Prepared batches: the participant's side of a two-phase commit. */
export abstract class PreparedBranches {
  /** Does nothing if the branch is finished already. */
  abstract finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void>;
  abstract inDoubt(): Promise<Branches>;
}

/** The coordinator finishes a branch in doubt well before that. */
const alarmMs = 30_000;

/** Commits or rolls back prepared batches as the coordinator has decided; never on its own. */
@Injectable()
export class FinishBranches {
  constructor(private readonly branches: PreparedBranches) {}

  execute(branchId: string, outcome: 'commit' | 'rollback'): Promise<void> {
    return this.branches.finish(branchId, outcome);
  }

  inDoubt(): Promise<Branches> {
    return this.branches.inDoubt();
  }

  /** For operators to watch: a branch in doubt locks its products. */
  async condition(): Promise<Condition> {
    const ages = (await this.branches.inDoubt()).map((it) => Math.round(it.age_ms));
    const oldestMs = Math.max(0, ...ages);
    return { isDegraded: oldestMs > alarmMs, details: { in_doubt: ages.length, oldest_ms: oldestMs } };
  }
}
