import { execFile } from 'node:child_process';
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#database';
import { eventually } from '#testing';
import { guardFolder, unguardFolder } from './app-process.js';
import { Link } from './link.js';
import { query } from './tables.js';

const run = promisify(execFile);

/** A Postgres with a synchronous standby, which has everything that the primary acknowledges. */
export interface ReplicatedPostgres {
  /** The URL of the database `cleave`. */
  url: string;
  /** The same on the standby, which is readable. */
  standbyUrl: string;
  /** The network link from the standby to the primary. */
  link: Link;
  stop(): Promise<void>;
}

/** Runs the embedded binaries. The standby is never promoted. */
export const startReplicatedPostgres = async (): Promise<ReplicatedPostgres> => {
  const folders = await Promise.all(['primary', 'standby'].map((it) => mkdtemp(join(tmpdir(), `cleave-${it}-`))));
  for (const folder of folders) guardFolder(folder);
  const started: { stop(): Promise<void> }[] = [];
  const stop = async (): Promise<void> => {
    // The primary last: it does not stop before its standby has everything.
    for (const it of started.toReversed()) await it.stop();
    for (const folder of folders) {
      await rm(folder, { recursive: true, force: true, maxRetries: 5 });
      unguardFolder(folder);
    }
  };
  try {
    const [here, there] = folders as [string, string];
    const primary = await copied(here, there);
    started.push(primary);
    const link = await Link.to(primary.port);
    started.push(link);
    const data = join(there, 'postgres', 'data');
    const { username, password } = new URL(primary.url('postgres'));
    const following = `host=127.0.0.1 port=${link.port} user=${username} password=${password} application_name=standby`;
    await appendFile(join(data, 'postgresql.auto.conf'), `primary_conninfo = '${following}'\n`);
    await writeFile(join(data, 'standby.signal'), '');
    const standby = await startEmbeddedPostgres({ dataDir: there });
    // It has to stop before the link does.
    started.push(standby);
    await eventually(async () => {
      const rows = await query(primary.url('postgres'), `SELECT FROM pg_stat_replication WHERE sync_state = 'sync'`);
      if (rows.length === 0) throw new Error('the standby does not follow yet');
    });
    await primary.createDatabase('cleave');
    return { url: primary.url('cleave'), standbyUrl: standby.url('cleave'), link, stop };
  } catch (error) {
    await stop();
    throw error;
  }
};

/** Creates a primary in one folder, and a copy of its data in the other. @returns the primary */
const copied = async (here: string, there: string): Promise<EmbeddedPostgres> => {
  const first = await startEmbeddedPostgres({ dataDir: here });
  await query(first.url('postgres'), `ALTER SYSTEM SET synchronous_standby_names = 'standby'`);
  await first.stop();
  // With their owners, because the same user runs both servers.
  await run('cp', ['-a', join(here, 'postgres'), there]);
  // It contains the port of the first server.
  await rm(join(there, 'postgres', 'data', 'postmaster.opts'));
  return startEmbeddedPostgres({ dataDir: here });
};
