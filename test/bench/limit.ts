import type { Bench } from './bench.js';
import { Program } from './commands.js';
import { withCost } from './cost.js';
import { runOf, type Run } from './figures.js';
import type { LimitCommands, LimitShape } from './limits/commands.js';
import { pauseBefore } from './turns.js';
import type { Workload } from './workloads.js';

const poolSizes = [1, 2, 4, 16, 64];
const calibrationSeconds = 0.7;

const names: Record<LimitShape, string> = { statement: 'limit a', transaction: 'limit b' };

/** What Postgres can do with one order at a time and nothing else, driven by a process of its own. */
export class Limit {
  /** The pool size that was best in the calibration. */
  private connections = 1;

  private constructor(
    private readonly bench: Bench,
    private readonly shape: LimitShape,
    private readonly workload: Workload,
    private readonly program: Program<LimitCommands>,
    private readonly databaseUrl: string,
  ) {}

  static async start(bench: Bench, shape: LimitShape, workload: Workload): Promise<Limit> {
    const program = bench.started.add(new Program<LimitCommands>('limits'));
    const databaseUrl = await bench.server.freshDatabase();
    await program.call('open', { databaseUrl, products: workload.catalogue.length });
    return new Limit(bench, shape, workload, program, databaseUrl);
  }

  get name(): string {
    return names[this.shape];
  }

  /**
   * Tries all pool sizes briefly, upwards and, unless there is only one round, downwards, and keeps the best. The tables get
   * statistics, as those of every contestant do.
   */
  async calibrate(seed: number): Promise<void> {
    const { report, options, server } = this.bench;
    const seconds = Math.min(calibrationSeconds, options.seconds);
    const tried: Run[] = [];
    for (const connections of options.rounds === 1 ? poolSizes : [...poolSizes, ...poolSizes.toReversed()])
      tried.push(await this.run({ connections, seconds, seed }));
    const fastestFirst = tried.toSorted((a, b) => b.perSecond - a.perSecond);
    this.connections = fastestFirst[0]!.callers;
    for (const connections of poolSizes) {
      const { contestant, workload, perSecond, p50Ms } = fastestFirst.find((it) => it.callers === connections)!;
      report.calibrations.push({ contestant, workload, connections, perSecond, p50Ms });
    }
    await server.vacuum(this.databaseUrl);
  }

  measure(seconds: number, seed: number): Promise<Run> {
    return this.run({ connections: this.connections, seconds, seed });
  }

  async end(): Promise<void> {
    await this.bench.started.stop(this.program);
    await this.bench.server.drop(this.databaseUrl);
  }

  private async run({
    connections,
    seconds,
    seed,
  }: {
    connections: number;
    seconds: number;
    seed: number;
  }): Promise<Run> {
    const { server, report } = this.bench;
    await pauseBefore(seconds);
    await server.checkpoint();
    const { shape, program } = this;
    const { result, postgresMs, othersShare } = await withCost(this.bench, { pids: [program.pid] }, () =>
      program.call('place', { shape, connections, durationMs: seconds * 1_000, seed }),
    );
    const { reserved, orders, placed } = await program.call('count', undefined);
    if (reserved !== placed || orders !== placed)
      report.faults.push(`${this.name}: ${placed} orders were placed, ${orders} are there, ${reserved} units reserved`);
    const { orders: count, p50Ms, p95Ms, p99Ms, mostMs, cpuMs } = result;
    const taken = (result.endedAtMs - result.startedAtMs) / 1_000;
    return runOf({
      contestant: this.name,
      workload: this.workload.name,
      callers: connections,
      count,
      seconds: taken,
      perSecond: count / taken,
      linesPerSecond: count / taken,
      ...{ p50Ms, p95Ms, p99Ms, mostMs },
      nodeMs: cpuMs / count,
      postgresMs: postgresMs / count,
      // The process drives itself: all of its time is in `nodeMs`.
      driverMs: 0,
      failures: {},
      othersShare,
    });
  }
}
