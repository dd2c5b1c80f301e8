import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#database';
import { guardFolder, unguardFolder } from '../support/app-process.js';
import { cpuMsOfServer } from './cpu.js';

/** Sixty-four of the largest pool, and those of everybody else. */
const maxConnections = 200;

/** The one Postgres that all contestants use, each with a database of its own. */
export class BenchmarkServer {
  private made = 0;

  private constructor(
    private readonly postgres: EmbeddedPostgres,
    private readonly folder: string,
  ) {}

  static async start(): Promise<BenchmarkServer> {
    const folder = await mkdtemp(join(tmpdir(), 'cleave-bench-'));
    // Also when this process is killed, so that neither a server nor gigabytes of orders stay behind.
    guardFolder(folder);
    const postgres = await startEmbeddedPostgres({ dataDir: folder, maxConnections });
    return new BenchmarkServer(postgres, folder);
  }

  /** A database that nobody has used yet. @returns its URL */
  async freshDatabase(): Promise<string> {
    const name = `bench_${(this.made += 1)}`;
    await this.postgres.createDatabase(name);
    return this.postgres.url(name);
  }

  /** A fresh database with the content of another one, to which nobody may be connected. */
  async copyOf(databaseUrl: string): Promise<string> {
    const name = `bench_${(this.made += 1)}`;
    await this.execute(`CREATE DATABASE ${name} TEMPLATE ${nameIn(databaseUrl)}`);
    return this.postgres.url(name);
  }

  /** So that its tables are not cleaned up while others are measured. */
  async drop(databaseUrl: string): Promise<void> {
    await this.execute(`DROP DATABASE ${nameIn(databaseUrl)} WITH (FORCE)`);
  }

  /** Every run begins at the same distance from the next checkpoint, and pays for none of its predecessor's pages. */
  async checkpoint(): Promise<void> {
    await this.execute('CHECKPOINT');
  }

  /** What autovacuum would do some time soon, done now, so that it does not fall into somebody's run. */
  async vacuum(databaseUrl: string): Promise<void> {
    await this.execute('VACUUM (ANALYZE)', databaseUrl);
  }

  get pid(): number {
    return this.postgres.pid;
  }

  cpuMs(): Promise<number> {
    return cpuMsOfServer(this.postgres.pid);
  }

  async stop(): Promise<void> {
    await this.postgres.stop();
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
    unguardFolder(this.folder);
  }

  private async execute(statement: string, databaseUrl = this.postgres.url('postgres')): Promise<void> {
    const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: 10_000 });
    client.on('error', () => undefined);
    await client.connect();
    try {
      await client.query(statement);
    } finally {
      await client.end();
    }
  }
}

const nameIn = (databaseUrl: string): string => pg.escapeIdentifier(new URL(databaseUrl).pathname.slice(1));
