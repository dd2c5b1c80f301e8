import pg from 'pg';
import type { Bench } from '../bench.js';
import { withCost } from '../cost.js';
import { cpuMsOf } from '../cpu.js';
import { placeUnmeasured, prepareOrders, warmUp } from '../measure.js';
import { median } from '../statistics.js';
import { endSystem, startOurs, startSplit, type System } from '../systems.js';
import { shown, tableOf } from '../table.js';
import type { Workload } from '../workloads.js';
import { workloadOf } from './place.js';

const commitsToTime = 200;

/** What Postgres has written so far. Nothing else writes to this server meanwhile. */
interface Written {
  walBytes: number;
  xids: number;
  /** By table, in bytes: its rows including TOAST, and all its indexes. */
  tables: Map<string, { rows: number; indexes: number }>;
}

const writtenIn = async (client: pg.Client): Promise<Written> => {
  const { rows: sums } = await client.query<{ wal: string; xids: string }>(
    `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS wal,
       pg_snapshot_xmax(pg_current_snapshot())::text AS xids`,
  );
  const { rows } = await client.query<{ name: string; rows: string; indexes: string }>(
    `SELECT schemaname || '.' || relname AS name, pg_table_size(relid) AS rows, pg_indexes_size(relid) AS indexes
     FROM pg_stat_user_tables`,
  );
  const tables = rows.map((it) => [it.name, { rows: Number(it.rows), indexes: Number(it.indexes) }] as const);
  return { walBytes: Number(sums[0]!.wal), xids: Number(sums[0]!.xids), tables: new Map(tables) };
};

/** The time of a single caller to commit one number: little more than the round trip and the sync of the WAL. */
const commitMs = async (client: pg.Client): Promise<number> => {
  await client.query('CREATE TABLE public.commits (number int)');
  const times: number[] = [];
  for (let number = 0; number < commitsToTime; number += 1) {
    const beganAt = performance.now();
    await client.query({ name: 'commit', text: 'INSERT INTO public.commits VALUES ($1)', values: [number] });
    times.push(performance.now() - beganAt);
  }
  await client.query('DROP TABLE public.commits');
  return median(times);
};

const connectedTo = async (databaseUrl: string): Promise<pg.Client> => {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: 10_000 });
  // The next query reports the error.
  client.on('error', () => undefined);
  await client.connect();
  return client;
};

interface Footprint {
  lines: string[];
  /** By measure, as shown in the table. */
  figures: Record<string, number>;
}

/** What one order adds to a system that has been running for a while. */
const footprintOf = async (bench: Bench, system: System, workload: Workload, callers: number): Promise<Footprint> => {
  const client = await connectedTo(system.databaseUrl!);
  try {
    const before = await writtenIn(client);
    const { result: load, ...cost } = await withCost(bench, system, () =>
      placeUnmeasured(bench, system, workload, {
        ...{ callers, seconds: bench.options.seconds, seed: bench.options.seed },
      }),
    );
    const after = await writtenIn(client);
    const batches = await client.query<{ size: number }>(
      `SELECT count(*)::float8 / count(DISTINCT xid) AS size FROM orders.events
       WHERE type = 'placed' AND xid >= $1::text::xid8`,
      [before.xids],
    );
    (await system.shelf!.faults()).forEach((it) => bench.report.faults.push(`${system.name}: ${it}`));
    const count = load.acknowledged;
    const perOrder = (bytes: number): number => bytes / count;
    const grown = [...after.tables].map(([name, size]) => {
      const { rows, indexes } = before.tables.get(name) ?? { rows: 0, indexes: 0 };
      return { name, rows: perOrder(size.rows - rows), indexes: perOrder(size.indexes - indexes) };
    });
    const connections = await client.query<{ count: string }>(
      `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cleave-%'`,
    );
    const lines = workload.orders.reduce((sum, it) => sum + it.lines.length, 0) / workload.orders.length;
    return {
      lines: grown
        .filter((it) => it.rows + it.indexes >= 1)
        .toSorted((a, b) => b.rows + b.indexes - a.rows - a.indexes)
        .map((it) => `  ${it.name}: rows ${shown(it.rows)}, indexes ${shown(it.indexes)} bytes an order`),
      figures: {
        orders: count,
        'lines an order': lines,
        'orders a batch': batches.rows[0]!.size,
        'node ms': cost.nodeMs / count,
        'Postgres ms': cost.postgresMs / count,
        'WAL bytes': perOrder(after.walBytes - before.walBytes),
        'disk bytes': grown.reduce((sum, it) => sum + it.rows + it.indexes, 0),
        transactions: perOrder(after.xids - before.xids),
        'commit ms': await commitMs(client),
        connections: Number(connections.rows[0]!.count),
      },
    };
  } finally {
    await client.end();
  }
};

/** The share of HOT updates. Postgres reports them when connections end, so the service must be stopped before. */
const updatesOf = async (databaseUrl: string): Promise<string[]> => {
  const client = await connectedTo(databaseUrl);
  try {
    const { rows } = await client.query<{ name: string; updates: string; hot: string; dead: string; vacuums: string }>(
      `SELECT schemaname || '.' || relname AS name, n_tup_upd AS updates, n_tup_hot_upd AS hot, n_dead_tup AS dead,
         autovacuum_count AS vacuums
       FROM pg_stat_user_tables WHERE n_tup_upd > 1000 ORDER BY n_tup_upd DESC`,
    );
    return rows.map(
      (it) =>
        `  ${it.name}: ${shown((Number(it.hot) / Number(it.updates)) * 100)} % of ${shown(Number(it.updates))} updates ` +
        `touched no index; autovacuum came ${it.vacuums} times, ${shown(Number(it.dead))} dead rows are left`,
    );
  } finally {
    await client.end();
  }
};

/** The processes of the split shape, in the order in which they are started. */
const splitApps = ['cache', 'payment', 'inventory', 'order'];

/** The CPU time of an order in each process, if they are separate. */
const cpuByProcess = async (bench: Bench, workload: Workload, callers: number): Promise<string> => {
  const system = await startSplit(bench, workload.catalogue, 'split', 1);
  await warmUp(bench, system, workload);
  const times = () => Promise.all([...system.pids.map((pid) => cpuMsOf([pid])), bench.server.cpuMs()]);
  const before = await times();
  const load = await placeUnmeasured(bench, system, workload, {
    ...{ callers, seconds: bench.options.seconds, seed: bench.options.seed },
  });
  const after = await times();
  await endSystem(bench, system);
  const costs = [...splitApps, 'Postgres'].map(
    (app, index) => `${app} ${shown((after[index]! - before[index]!) / load.acknowledged)}`,
  );
  return `${workload.name}, ${callers} callers, split over TCP, CPU ms an order: ${costs.join(', ')}`;
};

/**
 * What an order costs: bytes of WAL and on disk, transactions, and the CPU time of each process if they are separate. These
 * figures are used by `npm run scale`.
 */
export const footprintSuite = async (bench: Bench): Promise<void> => {
  const { options, report, say } = bench;
  const head = [
    ...['orders', 'lines an order', 'orders a batch', 'node ms', 'Postgres ms', 'WAL bytes', 'disk bytes'],
    ...['transactions', 'commit ms', 'connections'],
  ];
  const rows: string[][] = [];
  const details: string[] = [];
  for (const name of options.workloads) {
    const workload = await workloadOf(bench, name);
    if (!workload) continue;
    await prepareOrders(bench, workload);
    for (const callers of options.callers) {
      say(`footprint: ${name}, callers: ${callers}`);
      const system = await startOurs(bench, workload.catalogue);
      await warmUp(bench, system, workload);
      const { lines, figures } = await footprintOf(bench, system, workload, callers);
      const who = `${name}, ${callers} callers`;
      rows.push([who, ...head.map((it) => shown(figures[it]!))]);
      await bench.started.stop(...system.parts);
      details.push(`${who}:`, ...lines, ...(await updatesOf(system.databaseUrl!)));
      await bench.server.drop(system.databaseUrl!);
      details.push(await cpuByProcess(bench, workload, callers));
    }
  }
  report.notes.push(`## footprint, an order\n${tableOf(['', ...head], rows)}`, details.join('\n'));
};
