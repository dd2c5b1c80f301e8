import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import pg from 'pg';
import { KeyDirectory, type KnownKey } from '#security';
import type { KeyChanges } from '../use-cases/manage-keys.js';
import { PostgresKeys } from './postgres-keys.js';

/** How often the connection shows that it is alive, and how long it may take to: together, how late a loss is noticed. */
const pingEveryMs = 1_000;
const pingWithinMs = 2_000;
const connectWithinMs = 5_000;
const longestPauseMs = 5_000;

export const accessDatabaseUrl = Symbol('access database URL');

/**
 * The keys in Postgres, and the word of their changes. Over a connection that is lost nothing is heard, so that nothing
 * may be remembered until there is another one.
 */
@Injectable()
export class ListeningDirectory extends KeyDirectory implements KeyChanges, OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger('Keys');
  private readonly stopping = new AbortController();
  private forget: () => void = () => {};
  private listening: pg.Client | undefined;
  private running: Promise<void> = Promise.resolve();

  constructor(
    private readonly keys: PostgresKeys,
    @Inject(accessDatabaseUrl) private readonly url: string,
  ) {
    super();
  }

  find(keyId: string): Promise<KnownKey | undefined> {
    return this.keys.valid(keyId);
  }

  get hears(): boolean {
    return this.listening !== undefined;
  }

  onChange(forget: () => void): void {
    this.forget = forget;
  }

  changed(): void {
    this.forget();
  }

  onModuleInit(): void {
    this.running = this.keepListening();
  }

  async onApplicationShutdown(): Promise<void> {
    this.stopping.abort();
    await this.running;
  }

  private async keepListening(): Promise<void> {
    const { signal } = this.stopping;
    for (let failures = 0; !signal.aborted; failures += 1) {
      try {
        await this.listen(() => {
          if (failures > 1) this.logger.log('hears of changes of keys again');
          failures = 0;
        });
      } catch (error) {
        if (!signal.aborted && failures === 1)
          this.logger.warn(`does not hear of changes of keys and looks each of them up meanwhile (${String(error)})`);
      }
      await sleep(Math.min(longestPauseMs, 50 * 2 ** failures), undefined, { signal }).catch(() => undefined);
    }
  }

  /** Until the connection is lost. */
  private async listen(begun: () => void): Promise<void> {
    const client = new pg.Client({
      connectionString: this.url,
      connectionTimeoutMillis: connectWithinMs,
      query_timeout: pingWithinMs,
      application_name: 'cleave-access-listens',
      keepAlive: true,
    });
    const lost = new AbortController();
    const lose = (error?: Error): void => lost.abort(error);
    client.on('error', lose).on('end', () => lose());
    client.on('notification', () => this.forget());
    const { signal } = this.stopping;
    try {
      await client.connect();
      await client.query('LISTEN cleave_keys_changed');
      // What was remembered before may have changed unheard.
      this.forget();
      this.listening = client;
      begun();
      const ends = AbortSignal.any([signal, lost.signal]);
      while (!ends.aborted) {
        await sleep(pingEveryMs, undefined, { signal: ends }).catch(() => undefined);
        if (!ends.aborted) await client.query('SELECT 1');
      }
      if (lost.signal.aborted) throw lost.signal.reason;
    } finally {
      this.listening = undefined;
      this.forget();
      // A server that does not answer any more would not say goodbye either.
      if (signal.aborted) await client.end().catch(() => undefined);
      else (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    }
  }
}
