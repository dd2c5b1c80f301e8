import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Inject, Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import pg from 'pg';
import { KeyDirectory, type KnownKey } from '#security';
import type { KeyChanges } from '../use-cases/manage-keys.js';
import { PostgresKeys } from './postgres-keys.js';

/** How often the connection is pinged, and how long the answer may take: the sum is how late a loss is noticed. */
const pingEveryMs = 1_000;
const pingWithinMs = 2_000;
const connectWithinMs = 5_000;
const longestPauseMs = 5_000;
/** How often it is tested whether notifications arrive, and how long one may take. */
const tryEveryMs = 10_000;
const arrivesWithinMs = 2_000;

/** The connection is alive, but notifications do not arrive over it. */
class NothingArrives extends Error {
  override readonly name = 'NothingArrives';
}

/** The channel on which each process tests whether it hears notifications; it ignores the words of others. */
const wordsChannel = 'cleave_keys_words';

const cut = (client: pg.Client): void => {
  (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
};

export const accessDatabaseUrl = Symbol('access database URL');

/**
 * API keys in Postgres, and the notifications of their changes. A lost connection brings none, so no key may be
 * remembered until there is a new one. Nor does a connection that a pooler shares among its clients, although it looks
 * healthy; so each process tests it with notifications of its own.
 */
@Injectable()
export class ListeningDirectory extends KeyDirectory implements KeyChanges, OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger('Keys');
  private readonly stopping = new AbortController();
  private forget: () => void = () => {};
  private listening: pg.Client | undefined;
  private arrives = true;
  /** False until the first failure, because a process that has only just started is not degraded. */
  private hasFailed = false;
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

  /** Why changes are not heard of, for people to read; undefined while they are. */
  get whyDeaf(): string | undefined {
    if (this.hears || !this.hasFailed) return undefined;
    const meanwhile = 'meanwhile each request looks its key up in the database';
    return this.arrives
      ? `notifications of key changes are not received; ${meanwhile}`
      : `notifications of key changes do not arrive, as behind a connection pooler; ${meanwhile}. Point ACCESS_DATABASE_URL directly at Postgres`;
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
          if (failures > 1) this.logger.log('notifications of key changes are received again');
          failures = 0;
          this.hasFailed = false;
        });
      } catch (error) {
        const isSilent = error instanceof NothingArrives;
        if (!signal.aborted && (failures === 1 || (isSilent && this.arrives)))
          this.logger.warn(
            `notifications of key changes are not received; each request looks its key up meanwhile (${String(error)})`,
          );
        this.arrives = !isSilent;
        this.hasFailed = true;
      }
      await sleep(Math.min(longestPauseMs, 50 * 2 ** failures), undefined, { signal }).catch(() => undefined);
    }
  }

  /** Listens until the connection is lost. */
  private async listen(begun: () => void): Promise<void> {
    const client = this.newClient('cleave-access-listens');
    const words = new Map<string, () => void>();
    const lost = new AbortController();
    const lose = (error?: Error): void => lost.abort(error);
    client.on('error', lose).on('end', () => lose());
    client.on('notification', ({ channel, payload = '' }) => {
      if (channel === wordsChannel) words.get(payload)?.();
      else this.forget();
    });
    const { signal } = this.stopping;
    const ends = AbortSignal.any([signal, lost.signal]);
    try {
      await client.connect();
      await client.query(`LISTEN cleave_keys_changed; LISTEN ${wordsChannel}`);
      let triedAt = performance.now();
      await this.tryWhether(words, ends);
      // What was remembered may have changed before the connection listened.
      this.forget();
      this.listening = client;
      begun();
      while (!ends.aborted) {
        await sleep(pingEveryMs, undefined, { signal: ends }).catch(() => undefined);
        if (!ends.aborted) await client.query('SELECT 1');
        if (ends.aborted || performance.now() - triedAt < tryEveryMs) continue;
        triedAt = performance.now();
        // If the test itself could not connect, that says nothing about the connection that listens.
        await this.tryWhether(words, ends).catch((error: unknown) => {
          if (error instanceof NothingArrives) throw error;
        });
      }
      if (lost.signal.aborted) throw lost.signal.reason;
    } finally {
      this.listening = undefined;
      this.forget();
      // A server that does not respond would not answer a goodbye either.
      if (signal.aborted) await client.end().catch(() => undefined);
      else cut(client);
    }
  }

  /** Tests whether notifications from other connections arrive. @throws NothingArrives */
  private async tryWhether(words: Map<string, () => void>, ends: AbortSignal): Promise<void> {
    const word = randomUUID();
    const arrived = new Promise<void>((resolve) => words.set(word, resolve));
    // Uses another connection, as other processes do: a notification from the listening one might arrive by chance.
    const other = this.newClient('cleave-access-tries');
    other.on('error', () => undefined);
    const late = new AbortController();
    let hasArrived = false;
    try {
      const said = (async () => {
        await other.connect();
        await other.query('SELECT pg_notify($1, $2)', [wordsChannel, word]);
        await arrived;
        return (hasArrived = true);
      })();
      const tooLate = sleep(arrivesWithinMs, false, { signal: AbortSignal.any([ends, late.signal]) }).catch(() => true);
      if (!(await Promise.race([said, tooLate]))) throw new NothingArrives('notifications do not arrive');
    } finally {
      late.abort();
      words.delete(word);
      if (hasArrived) void other.end().catch(() => undefined);
      else cut(other);
    }
  }

  private newClient(name: string): pg.Client {
    return new pg.Client({
      connectionString: this.url,
      connectionTimeoutMillis: connectWithinMs,
      query_timeout: pingWithinMs,
      application_name: name,
      keepAlive: true,
    });
  }
}
