import type { FactoryProvider } from '@nestjs/common';
import { logBeginning } from '#contracts';
import { sqlToken, type Queries, type Sql, type Statement } from '#database';
import { partCount } from './parts.js';

/** A part of the log that this instance may read until its lease expires: whoever takes it then raises the epoch. */
export interface LeasedPart {
  part: number;
  epoch: string;
  /** The position of the last event of this part that has taken effect. */
  position: string;
}

/** How far a consumer has come, to be stored together with the effects of the events. */
export interface Checkpoint {
  /**
   * Stores it on its own, after effects outside this database, which must be durable. It is visible to all readers at once,
   * but a crash of the database may lose it, and the events then come again.
   */
  keep(): Promise<void>;
  /**
   * Consumer, parts, epochs and positions: the arguments of `advance_parts`. Called in the statement that has the effects,
   * it lets each event take effect exactly once.
   */
  values: readonly [consumer: string, parts: number[], epochs: string[], positions: string[]];
}

/** The SQLSTATE of `advance_parts` if another instance has taken over: what this one did since is not stored. */
const leaseLost = 'CL001';

export const isLeaseLost = (error: unknown): boolean => (error as { code?: unknown } | null)?.code === leaseLost;

/** The checkpoints of the consumers of one module, in its own schema (`checkpointTables`). */
export class Checkpoints {
  private readonly statements: Record<'begin' | 'acquire' | 'keep' | 'release' | 'read' | 'forget', Statement>;

  constructor(
    private readonly sql: Sql,
    schema: string,
  ) {
    this.statements = statementsOf(schema);
  }

  /** Creates the checkpoints of a consumer, unless they exist. */
  async begin(consumer: string, position = logBeginning, within: Queries = this.sql): Promise<void> {
    await within.query(this.statements.begin, [consumer, position, partCount]);
  }

  /**
   * Leases a fair share of the parts among the current readers, and gives back what exceeds it. If it is called again before
   * the lease expires, the same parts are kept without interruption.
   */
  acquire(consumer: string, holder: string, leaseMs: number): Promise<LeasedPart[]> {
    return this.sql.query<LeasedPart>(this.statements.acquire, [consumer, holder, leaseMs]);
  }

  /** @returns the checkpoint of a consumer that has reached these positions */
  at(consumer: string, parts: readonly LeasedPart[]): Checkpoint {
    const values: Checkpoint['values'] = [
      consumer,
      parts.map((it) => it.part),
      parts.map((it) => it.epoch),
      parts.map((it) => it.position),
    ];
    return {
      values,
      keep: async () => {
        await this.sql.query(this.statements.keep, values);
      },
    };
  }

  async release(consumer: string, holder: string): Promise<void> {
    await this.sql.query(this.statements.release, [consumer, holder]);
  }

  /** The position of each part. */
  read(consumer: string, within: Queries = this.sql): Promise<Pick<LeasedPart, 'part' | 'position'>[]> {
    return within.query(this.statements.read, [consumer]);
  }

  /** Deletes a consumer that is not needed any more: an instance that still reads for it loses its lease. */
  async forget(consumer: string): Promise<void> {
    await this.sql.query(this.statements.forget, [consumer]);
  }
}

/** Provides the checkpoints in the schema of a database that was set up with `databaseFor`. */
export const checkpointsIn = (database: string, schema: string): FactoryProvider<Checkpoints> => ({
  provide: Checkpoints,
  inject: [sqlToken(database)],
  useFactory: (sql: Sql) => new Checkpoints(sql, schema),
});

/**
 * The function is volatile, so each statement sees the effects of those before. A part whose row is locked, because it is
 * being advanced, is skipped and taken the next time.
 */
const acquireParts = (schema: string): string =>
  `CREATE OR REPLACE FUNCTION ${schema}.acquire_parts(p_consumer text, p_holder uuid, p_lease_ms bigint)
  RETURNS TABLE (part smallint, epoch text, "position" text) LANGUAGE plpgsql AS $$
  #variable_conflict use_column
  DECLARE
    until timestamptz := now() + p_lease_ms * interval '1 millisecond';
    -- No lease lasts this long: a later end was written before the clock was set back, and counts as expired.
    too_long timestamptz := until + p_lease_ms * interval '1 millisecond';
    share int;
  BEGIN
    INSERT INTO ${schema}.readers (consumer, holder, seen_until) VALUES (p_consumer, p_holder, until)
    ON CONFLICT (consumer, holder) DO UPDATE SET seen_until = excluded.seen_until;
    DELETE FROM ${schema}.readers WHERE (consumer, holder) IN (
      SELECT consumer, holder FROM ${schema}.readers
      WHERE consumer = p_consumer AND (seen_until <= now() OR seen_until > too_long)
      FOR UPDATE SKIP LOCKED);
    SELECT ceil((SELECT count(*) FROM ${schema}.checkpoints WHERE consumer = p_consumer)::numeric / count(*)) INTO share
    FROM ${schema}.readers WHERE consumer = p_consumer;
    UPDATE ${schema}.checkpoints SET holder = NULL, lease_until = '-infinity'
    WHERE consumer = p_consumer AND part IN (
      SELECT part FROM ${schema}.checkpoints WHERE consumer = p_consumer AND holder = p_holder AND lease_until > now()
      ORDER BY part OFFSET share FOR UPDATE SKIP LOCKED);
    RETURN QUERY
    UPDATE ${schema}.checkpoints c
    SET epoch = CASE WHEN c.holder = p_holder AND c.lease_until > now() THEN c.epoch ELSE c.epoch + 1 END,
      holder = p_holder, lease_until = until
    FROM (
      SELECT part FROM ${schema}.checkpoints
      WHERE consumer = p_consumer AND (holder = p_holder OR lease_until <= now() OR lease_until > too_long)
      ORDER BY holder IS NOT DISTINCT FROM p_holder AND lease_until > now() DESC, part
      LIMIT share FOR UPDATE SKIP LOCKED
    ) mine
    WHERE c.consumer = p_consumer AND c.part = mine.part
    RETURNING c.part, c.epoch::text, c.position;
  END $$`;

/** Advances all of the parts or none: called in the statement that has the effects, it rolls these back as well. */
const advanceParts = (schema: string): string =>
  `CREATE OR REPLACE FUNCTION ${schema}.advance_parts(
    p_consumer text, p_parts smallint[], p_epochs bigint[], p_positions text[])
  RETURNS void LANGUAGE plpgsql AS $$
  DECLARE
    moved int;
  BEGIN
    -- Locked in the order of the parts, so that a reader that lost some and the one that took them over cannot deadlock.
    PERFORM FROM ${schema}.checkpoints WHERE consumer = p_consumer AND part = ANY (p_parts)
    ORDER BY part FOR NO KEY UPDATE;
    UPDATE ${schema}.checkpoints c SET position = m.position
    FROM unnest(p_parts, p_epochs, p_positions) AS m(part, epoch, position)
    WHERE c.consumer = p_consumer AND c.part = m.part AND c.epoch = m.epoch AND c.lease_until > now();
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved < cardinality(p_parts) THEN
      RAISE EXCEPTION 'another instance has taken over the reading of the log' USING ERRCODE = '${leaseLost}';
    END IF;
  END $$`;

/** They replace older versions of themselves, so a change of them needs a new migration in every module. */
export const partFunctions = (schema: string): string[] => [acquireParts(schema), advanceParts(schema)];

/** The tables and functions that a module's migration creates, so that it can follow logs. */
export const checkpointTables = (schema: string): string[] => [
  `CREATE TABLE ${schema}.checkpoints (
    consumer text COLLATE "C" NOT NULL,
    part smallint NOT NULL,
    position text COLLATE "C" NOT NULL,
    -- The current reader, the end of its lease, and the fencing token that stops a reader whose lease has expired.
    holder uuid,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    epoch bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer, part)
  )`,
  `CREATE TABLE ${schema}.readers (
    consumer text COLLATE "C" NOT NULL,
    holder uuid NOT NULL,
    seen_until timestamptz NOT NULL,
    PRIMARY KEY (consumer, holder)
  )`,
  ...partFunctions(schema),
];

/** SQL for a migration: lets a consumer begin before the first event. */
export const logStart = (schema: string, consumer: string): string =>
  `INSERT INTO ${schema}.checkpoints (consumer, part, position)
   SELECT '${consumer}', part, '${logBeginning}' FROM generate_series(0, ${partCount - 1}) AS part`;

const statementsOf = (schema: string) => ({
  begin: {
    name: `${schema}-checkpoints-begin`,
    text: `
      INSERT INTO ${schema}.checkpoints (consumer, part, position)
      SELECT $1, part, $2 FROM generate_series(0, $3::int - 1) AS part
      ON CONFLICT DO NOTHING`,
  },
  acquire: {
    name: `${schema}-checkpoints-acquire`,
    text: `SELECT * FROM ${schema}.acquire_parts($1, $2, $3)`,
  },
  /**
   * Its commit does not wait for the disk or the standby, which orders wait for at that moment. Leases must not be acquired
   * like that: if a crash lost a new epoch, the next holder would get the same one, and fence off nobody.
   */
  keep: {
    name: `${schema}-checkpoints-keep`,
    text: `SELECT set_config('synchronous_commit', 'off', true), ${schema}.advance_parts($1, $2, $3, $4)`,
  },
  release: {
    name: `${schema}-checkpoints-release`,
    text: `
      WITH gone AS (DELETE FROM ${schema}.readers WHERE consumer = $1 AND holder = $2)
      UPDATE ${schema}.checkpoints SET holder = NULL, lease_until = '-infinity' WHERE consumer = $1 AND part IN (
        SELECT part FROM ${schema}.checkpoints WHERE consumer = $1 AND holder = $2 ORDER BY part FOR NO KEY UPDATE)`,
  },
  read: {
    name: `${schema}-checkpoints-read`,
    text: `SELECT part, position FROM ${schema}.checkpoints WHERE consumer = $1 ORDER BY part`,
  },
  forget: {
    name: `${schema}-checkpoints-forget`,
    text: `
      WITH gone AS (DELETE FROM ${schema}.readers WHERE consumer = $1)
      DELETE FROM ${schema}.checkpoints WHERE consumer = $1`,
  },
});
