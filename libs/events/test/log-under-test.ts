import { expect } from '@jest/globals';
import pg from 'pg';
import { z } from 'zod';
import { cloudEvent } from '#contracts';
import { Sql } from '#database';
import {
  Checkpoints,
  EventConsumer,
  LinkedLog,
  checkpointTables,
  numbersOf,
  partCount,
  partOf,
  positionOf,
  type Checkpoint,
  type EventPublisher,
  type EventSource,
  type Linked,
  type LogNumbers,
  type ReadLog,
} from '#events';
import { testDatabase, until, type SeededRandom } from '#testing';

export const testEvent = cloudEvent(z.literal('test'), z.object({ filling: z.string() }));
export type TestEvent = z.output<typeof testEvent>;

interface Row extends LogNumbers {
  subject: string;
  filling: string;
  at: Date;
}

const read = {
  name: 'test-log-read',
  text: `
    SELECT xid::text, id::text, subject, filling, at FROM reader.log
    WHERE (xid, id) > ($1::xid8, $2::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY log.xid, log.id LIMIT $3`,
};

const traceparent = `00-${'1'.repeat(32)}-${'2'.repeat(16)}-01`;

const eventOf = (row: Row): TestEvent => ({
  ...{ specversion: '1.0', source: '/test', type: 'test', tenantid: 't', traceparent },
  ...{ id: `${row.xid}:${row.id}`, subject: row.subject, time: row.at, sequence: positionOf(row) },
  data: { filling: row.filling },
});

/** A pool for a schema named `reader`, which has the tables of checkpoints. */
export const readerPool = async (url: string): Promise<pg.Pool> => {
  const pool = new pg.Pool({ connectionString: url });
  // The pool reports its end before its connections have ended, and those fail when the database is dropped.
  pool.on('error', () => undefined);
  await pool.query('CREATE SCHEMA reader');
  for (const statement of checkpointTables('reader')) await pool.query(statement);
  return pool;
};

/** A log like that of orders, and the events that consumers have seen, in a database of its own. */
export const startLog = async () => {
  const database = await testDatabase();
  const pool = await readerPool(database.url);
  await pool.query(`
    CREATE TABLE reader.log (
      xid xid8 NOT NULL DEFAULT pg_current_xact_id(), id bigserial, subject text NOT NULL, filling text NOT NULL,
      at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (xid, id)
    )`);
  await pool.query(`
    CREATE TABLE reader.seen (
      consumer text, number bigserial, sequence text COLLATE "C", subject text, PRIMARY KEY (consumer, sequence)
    )`);
  const sql = new Sql(pool, 'reader', 12_000);
  const checkpoints = new Checkpoints(sql, 'reader');

  const readLog: ReadLog<TestEvent> = async (after, limit) => {
    const { xid, id } = numbersOf(after);
    const rows = await sql.query<Row>(read, [xid, id, limit]);
    const events = rows.map(eventOf);
    return { events, until: events.at(-1)?.sequence ?? after, isMore: rows.length === limit };
  };
  /** All events, without waiting for transactions that are still running. */
  const all = async (): Promise<TestEvent[]> =>
    (
      await pool.query<Row>('SELECT xid::text, id::text, subject, filling, at FROM reader.log ORDER BY log.xid, log.id')
    ).rows.map(eventOf);
  const write = async (subjects: readonly string[], filling = ''): Promise<void> => {
    await pool.query(
      'INSERT INTO reader.log (subject, filling) SELECT subject, $2 FROM unnest($1::text[]) AS subject',
      [subjects, filling],
    );
  };
  const sequencesOf = async (text: string, values: unknown[]): Promise<string[]> =>
    (await pool.query<{ sequence: string }>(text, values)).rows.map((it) => it.sequence);
  /** In the order in which they took effect. */
  const seenBy = (consumer: string) =>
    sequencesOf(`SELECT sequence FROM reader.seen WHERE consumer = $1 ORDER BY number`, [consumer]);
  const countSeen = async (consumer: string): Promise<number> =>
    (await pool.query<{ count: number }>(`SELECT count(*)::int FROM reader.seen WHERE consumer = $1`, [consumer]))
      .rows[0]!.count;
  /** Checks that each event took effect once (twice fails in the database), and in order within its part. */
  const expectAllInOrder = async (consumer: string): Promise<void> => {
    const events = await all();
    await until(async () => (await countSeen(consumer)) >= events.length);
    const seen = await seenBy(consumer);
    const part = new Map(events.map((it) => [it.sequence, partOf(it.subject)]));
    const byPart = (sequences: readonly string[]) => Map.groupBy(sequences, (it) => part.get(it));
    const [expected, actual] = [byPart(events.map((it) => it.sequence)), byPart(seen)];
    for (const [it, sequences] of expected) expect(actual.get(it)).toEqual(sequences);
    expect(seen).toHaveLength(events.length);
  };
  /** Makes the leases of some parts expire, so that the next reader takes them under a new epoch. */
  const letGo = async (consumer: string, parts: readonly number[]): Promise<void> => {
    // Skips locked rows, because a deadlock here would not be the fault of the consumers.
    await pool.query(
      `UPDATE reader.checkpoints SET lease_until = now() WHERE (consumer, part) IN (
        SELECT consumer, part FROM reader.checkpoints WHERE consumer = $1 AND part = ANY ($2) FOR UPDATE SKIP LOCKED)`,
      [consumer, parts],
    );
  };
  /** How many readers hold parts. */
  const countHolders = async (consumer: string): Promise<number> =>
    (
      await pool.query<{ count: number }>(
        'SELECT count(DISTINCT holder)::int FROM reader.checkpoints WHERE consumer = $1 AND lease_until > now()',
        [consumer],
      )
    ).rows[0]!.count;
  const stop = async () => {
    await pool.end();
    await database.stop();
  };
  return {
    pool,
    sql,
    checkpoints,
    readLog,
    all,
    write,
    seenBy,
    countSeen,
    letGo,
    countHolders,
    expectAllInOrder,
    stop,
  };
};

export type LogUnderTest = Awaited<ReturnType<typeof startLog>>;

const note = {
  name: 'test-note',
  text: `INSERT INTO reader.seen (consumer, sequence, subject)
    SELECT $1, sequence, subject FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS r(sequence, subject, number)
    ORDER BY number`,
};

const advance = { name: 'test-advance', text: 'SELECT reader.advance_parts($1, $2, $3, $4)' };

/** Records each event in the transaction of its checkpoint; applying one twice fails. */
export class Notes extends EventConsumer<TestEvent> {
  failures: unknown[] = [];

  constructor(
    private readonly log: LogUnderTest,
    consumer: string,
    source: EventSource<TestEvent>,
    pageSize = 50,
  ) {
    super(consumer, log.checkpoints, source, {
      batchSize: 50,
      pageSize,
      pollMs: 20,
      failing: 'fails',
      working: 'works',
    });
  }

  protected override async execute(): Promise<boolean> {
    try {
      return await super.execute();
    } catch (error) {
      this.failures.push(error);
      throw error;
    }
  }

  protected apply(events: readonly TestEvent[], checkpoint: Checkpoint): Promise<void> {
    return this.log.sql.transaction(async (within) => {
      const columns = [events.map((it) => it.sequence), events.map((it) => it.subject)];
      // First, so that a reader that has lost a part fails for that reason, and not because of a repeated event.
      await within.query(advance, checkpoint.values);
      await within.query(note, [this.consumer, ...columns]);
    });
  }
}

/** Makes leases expire after it has read ahead and before a batch takes effect, so that others can take the parts. */
export class Disturbed extends Notes {
  constructor(
    private readonly shared: LogUnderTest,
    consumer: string,
    source: EventSource<TestEvent>,
    private readonly random: SeededRandom,
    /** By part, the consumers that have read it. */
    private readonly readers: Map<number, Set<Notes>>,
  ) {
    super(shared, consumer, source, 10);
  }

  protected override async apply(events: readonly TestEvent[], checkpoint: Checkpoint): Promise<void> {
    const someParts = this.random
      .shuffled(Array.from({ length: partCount }, (_, part) => part))
      .slice(this.random.integer(0, partCount - 1));
    if (this.random.next() < 0.3) await this.shared.letGo(this.consumer, someParts);
    await super.apply(events, checkpoint);
    for (const part of checkpoint.values[1]) this.readers.set(part, (this.readers.get(part) ?? new Set()).add(this));
  }
}

export class Publishes extends EventConsumer<Linked<TestEvent>> {
  constructor(
    log: LogUnderTest,
    private readonly publisher: EventPublisher,
    consumer: string,
  ) {
    const rhythm = { batchSize: 50, pollMs: 20, failing: 'fails', working: 'works' };
    super(consumer, log.checkpoints, new LinkedLog(log.readLog), rhythm);
  }

  protected override async execute(): Promise<boolean> {
    await this.publisher.prepare();
    return super.execute();
  }

  protected async apply(events: readonly Linked<TestEvent>[], checkpoint: Checkpoint): Promise<void> {
    await this.publisher.publish(events);
    await checkpoint.keep();
  }
}
