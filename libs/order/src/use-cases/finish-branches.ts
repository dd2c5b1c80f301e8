import { Inject, Injectable } from '@nestjs/common';
import { PeriodicWork } from '#periodic';

/** How stock and orders are committed: one after the other, or by a two-phase commit. */
export type CommitProtocol = 'flexible' | 'two-phase';

export const commitProtocol = Symbol('commit protocol');
/** After how long a branch that nobody has finished is looked into, in milliseconds. */
export const inDoubtAfter = Symbol('in doubt after');

/** What was decided about branches: the transaction that records orders says commit, whoever comes before it says abort. */
export abstract class BranchDecisions {
  /** Decides to abort where nothing was decided yet. @returns what is decided, for ever */
  abstract decide(branchId: string): Promise<'commit' | 'abort'>;
  /** Forgets decisions of long ago, except those about these branches. */
  abstract forgetDecisions(ageMs: number, except: readonly string[]): Promise<void>;
}

/** The participant: stock that is prepared. */
export abstract class StockBranches {
  abstract finish(branchId: string, outcome: 'commit' | 'rollback'): Promise<void>;
  abstract inDoubt(): Promise<readonly { branch_id: string; age_ms: number }[]>;
}

/**
 * Orders are recorded on no branch that is older, by the clock of whoever began it against that of their database: its
 * coordinator may have been paused for however long, and what was decided meanwhile may be forgotten.
 */
export const branchLivesMs = 1_800_000;
/** Longer than that, by as much as the clocks may differ. */
const decisionKeptMs = 2 * branchLivesMs;
const alarmMs = 30_000;

/**
 * Finishes what was prepared, as it was decided; presumed abort. The decision is made under a primary key, so a
 * coordinator that was paused and comes back cannot record orders on stock that was given back. Any instance recovers
 * what another has left: every step may be repeated, by anybody.
 */
@Injectable()
export class FinishBranches extends PeriodicWork {
  constructor(
    private readonly decisions: BranchDecisions,
    private readonly stock: StockBranches,
    @Inject(inDoubtAfter) private readonly inDoubtAfterMs: number,
  ) {
    super(inDoubtAfterMs / 4, 'prepared transactions of inventory could not be finished, trying again');
  }

  /**
   * Looks once for what was left; one that cannot be finished stops no other.
   *
   * @returns how many branches were finished
   * @throws AggregateError of what was in the way of the others
   */
  async execute(): Promise<number> {
    const branches = await this.stock.inDoubt();
    // What would be prepared as long from now is from before the clock was set back.
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

  /** The orders are recorded, so that nothing can go wrong any more: who cannot be told now is told later. */
  async commit(branchId: string): Promise<void> {
    await this.stock.finish(branchId, 'commit').catch((error: unknown) => {
      this.logger.warn(
        `a prepared transaction of inventory could not be committed, trying again later (${String(error)})`,
      );
    });
  }

  /** Ends a branch of which it is not known whether its orders were recorded. */
  async end(branchId: string): Promise<void> {
    const decision = await this.decisions.decide(branchId);
    await this.stock.finish(branchId, decision === 'commit' ? 'commit' : 'rollback');
  }
}
