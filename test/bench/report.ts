import { Figure, type Calibration, type Measure, type Memory, type Run } from './figures.js';
import { median } from './statistics.js';

/** Everything that one call of the benchmark has found out. */
export class Report {
  readonly runs: Run[] = [];
  readonly calibrations: Calibration[] = [];
  readonly notes: string[] = [];
  /** Stock that is not exact, and orders that are lost: what no benchmark may pass over. */
  readonly faults: string[] = [];
  memory: Memory | undefined;

  /** In the order in which they were first measured. */
  figures(): Figure[] {
    const groups = Map.groupBy(this.runs, (it) => `${it.workload}|${it.contestant}|${it.callers}`);
    return [...groups.values()].map((runs) => new Figure(runs));
  }

  /**
   * The median of the runs; NaN where nothing was measured.
   * @param callers left out where there is but one number of them, as with the limits
   */
  median(measure: Measure, contestant: string, workload: string, callers?: number): number {
    const figure = this.figures().find(
      (it) =>
        it.contestant === contestant && it.workload === workload && (callers === undefined || it.callers === callers),
    );
    return median(figure?.values(measure) ?? []);
  }
}
