import { Inject, Injectable } from '@nestjs/common';
import { PeriodicJob } from '#periodic';

/** How stock and orders are committed: one after the other, or by a two-phase commit. */
export type CommitProtocol = 'flexible' | 'two-phase';

export const commitProtocol = Symbol('commit protocol');
/** How old an unfinished branch must be before recovery looks into it, in milliseconds. */
export const inDoubtAfter = Symbol('in doubt after');

/** Decisions about branches: recording the orders decides to commit, unless recovery has decided to abort before. */
export abstract class BranchDecisions {
  /** Decides to abort if nothing was decided yet. @returns the decision, which is final */
  abstract decide(branchId: string): Promise<'commit' | 'abort'>;
  /** Deletes old decisions, except those about these branches. */
  abstract forgetDecisions(ageMs: number, except: readonly string[]): Promise<void>;
}

/** The participant of the two-phase commit: prepared stock. */
export abstract class StockBranches {
  abstract finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void>;
  abstract inDoubt(): Promise<readonly { branch_id: string; age_ms: number }[]>;
}

/**
 * No orders are recorded on a branch older than this, measured from the clock of the process that began it to that of the
 * database: its coordinator may have been paused for any time, and the decision made meanwhile may have been deleted.
 */
export const branchLivesMs = 1_800_000;
/** Longer than a branch lives, by as much as the clocks may differ. */
const decisionKeptMs = 2 * branchLivesMs;
const alarmMs = 30_000;

/**
 * Finishes prepared branches as decided (presumed abort). Decisions are made under a primary key, so a coordinator that
 * resumes after a pause cannot record orders on stock that was released. Any instance recovers the branches of others: every
 * step is idempotent and may be done by anyone.
 */
@Injectable()
export class FinishBranches extends PeriodicJob {
  constructor(
    private readonly decisions: BranchDecisions,
    private readonly stock: StockBranches,
    @Inject(inDoubtAfter) private readonly inDoubtAfterMs: number,
  ) {
    super(inDoubtAfterMs / 4, 'prepared transactions of inventory could not be finished, trying again');
  }

  /**
   * Looks for branches in doubt once. One that cannot be finished does not stop the others.
   *
   * @returns how many branches were finished
   * @throws AggregateError if some of them could not be finished
   */
  async execute(): Promise<number> {
    const branches = await this.stock.inDoubt();
    // A branch whose age is negative was prepared before the clock was set back.
    const left = branches.filter((it) => Math.abs(it.age_ms) >= this.inDoubtAfterMs);
    const failures: unknown[] = [];
    for (const { branch_id, age_ms } of left) {
      if (Math.abs(age_ms) > alarmMs)
        this.logger.warn(
          `a transaction of inventory has been prepared for ${Math.round(age_ms / 1_000)} s: ${branch_id}`,
        );
      await this.end(branch_id).catch((error: unknown) => failures.push(error));
    }
    await this.decisions.forgetDecisions(
      decisionKeptMs,
      branches.map((it) => it.branch_id),
    );
    if (failures.length > 0)
      throw new AggregateError(
        failures,
        `${failures.length} of ${left.length} prepared transactions: ${String(failures[0])}`,
      );
    return left.length;
  }

  /** The orders are recorded, so nothing can go wrong any more: if inventory cannot be reached, recovery commits later. */
  async commit(branchId: string): Promise<void> {
    await this.stock.finish(branchId, 'commit').catch((error: unknown) => {
      this.logger.warn(
        `a prepared transaction of inventory could not be committed, trying again later (${String(error)})`,
      );
    });
  }

  /** Ends a branch if it is unknown whether its orders were recorded. */
  async end(branchId: string): Promise<void> {
    const decision = await this.decisions.decide(branchId);
    await this.stock.finish(branchId, decision === 'commit' ? 'commit' : 'rollback');
  }
}
