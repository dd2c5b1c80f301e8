import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#database';
import { guardFolder, unguardFolder } from '../support/app-process.js';
import { cpuMsOfServer } from './cpu.js';

/** For the largest pool, 64, and all others. */
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
    // Also if this process is killed, so that neither the server nor gigabytes of orders are left behind.
    guardFolder(folder);
    const postgres = await startEmbeddedPostgres({ dataDir: folder, maxConnections });
    return new BenchmarkServer(postgres, folder);
  }

  /** Creates an empty database. @returns its URL */
  async freshDatabase(): Promise<string> {
    const name = `bench_${(this.made += 1)}`;
    await this.postgres.createDatabase(name);
    return this.postgres.url(name);
  }

  /** Creates a copy of another database, which must have no connections. @returns its URL */
  async copyOf(databaseUrl: string): Promise<string> {
    const name = `bench_${(this.made += 1)}`;
    await this.execute(`CREATE DATABASE ${name} TEMPLATE ${nameIn(databaseUrl)}`);
    return this.postgres.url(name);
  }

  /** Drops a database, so that it is not vacuumed while others are measured. */
  async drop(databaseUrl: string): Promise<void> {
    await this.execute(`DROP DATABASE ${nameIn(databaseUrl)} WITH (FORCE)`);
  }

  /** Makes every run begin at the same distance from the next checkpoint, without writing its predecessor's pages. */
  async checkpoint(): Promise<void> {
    await this.execute('CHECKPOINT');
  }

  /** Does now what autovacuum would do later, during a measurement. */
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
