import { Figure, type Calibration, type Measure, type Memory, type Run } from './figures.js';
import { median } from './statistics.js';

/** The results of one call of the benchmark. */
export class Report {
  readonly runs: Run[] = [];
  readonly calibrations: Calibration[] = [];
  readonly notes: string[] = [];
  /** Wrong stock and lost orders, which no benchmark may ignore. */
  readonly faults: string[] = [];
  memory: Memory | undefined;

  /** In the order of their first measurement. */
  figures(): Figure[] {
    const groups = Map.groupBy(this.runs, (it) => `${it.workload}|${it.contestant}|${it.callers}`);
    return [...groups.values()].map((runs) => new Figure(runs));
  }

  /**
   * The median of the runs; NaN if nothing was measured.
   *
   * @param callers left out if there is only one number of them, as with limits
   */
  median(measure: Measure, contestant: string, workload: string, callers?: number): number {
    const figure = this.figures().find(
      (it) =>
        it.contestant === contestant && it.workload === workload && (callers === undefined || it.callers === callers),
    );
    return median(figure?.values(measure) ?? []);
  }
}
