import { Injectable } from '@nestjs/common';
import type { ReplyOf, inventoryContract } from '#contracts';

type Branches = ReplyOf<(typeof inventoryContract)['operations']['in_doubt']>['branches'];

/** Batches that are prepared: the participant's side of a two-phase commit. */
export abstract class PreparedBranches {
  /** Does nothing where it is finished already. */
  abstract finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void>;
  abstract inDoubt(): Promise<Branches>;
}

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
}
