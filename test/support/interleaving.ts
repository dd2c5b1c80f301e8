import { AsyncLocalStorage } from 'node:async_hooks';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { CleaveError, type Contract } from '#contracts';
import { Sql, type Queries, type Statement } from '#database';
import { Messenger, type ContractClient } from '#messaging';

/**
 * What becomes of a call:
 * - `goes`: it is made, and its result is returned,
 * - `is lost`: it fails and has no effect,
 * - `is not heard`: it takes effect, and then fails,
 * - `goes twice`: a message is delivered a second time, at any time until the end of the run,
 * - `stays open`: a statement is executed, and its transaction is committed at any later time,
 * - `outlives its caller`: the same, but its caller loses the connection meanwhile.
 */
type Fate = 'goes' | 'is lost' | 'is not heard' | 'goes twice' | 'stays open' | 'outlives its caller';

/** One decision of the scheduler. */
export interface Choice {
  /** Selects one of the calls that wait. */
  pick: number;
  /** Replaced by `goes` where the call cannot have it. */
  fate: Fate;
  /** How many other calls are let go at the same time, so that they meet inside the database. */
  along: number;
}

type Actor = readonly [name: string, act: () => Promise<unknown>];

/** A call that waits for the scheduler. */
interface Gate {
  actor: string;
  call: string;
  possible: readonly Fate[];
  isCommit: boolean;
  open: (fate: Fate) => void;
}

/** Whose call it is: a batch counts as a call of the first who is in it. */
const acting = new AsyncLocalStorage<string>();

/** The run that calls of this process belong to at present; without one, nothing is stopped. */
let current: Interleaving | undefined;

/** The monotonic clock, and by how much that of the code under test is ahead of it. */
const realNow = performance.now.bind(performance);
let aheadMs = 0;

/** A statement waits for a lock of a transaction that stays open, if it takes longer than this. */
const blockedAfterMs = 15;
/** Longer than any of the time limits of a statement. */
const hangsAfterMs = 20_000;
const endsWithinMs = 120_000;
/** If nothing has moved for as many looks, all that is left to do is wait for time to pass. */
const idleLooks = 10;
/** Every so many times, the time that callers wait has passed; before that, only what is due is done. */
const dueBeforeLate = 3;
/** As long as a caller waits for the outcome of a capture or a refund. */
const passesMs = 5_001;
/** How many other calls are let go, on average, before a transaction that stays open is committed. */
const slowCommits = 20;

const outage = (call: string): CleaveError => new CleaveError('unavailable', `${call} was cut off by the test`);

/** Constraints that decide a race: whoever inserts second learns from the violation that it has lost. */
const isDecidedByInserting = (constraint: unknown): boolean =>
  ['keyed_changes_pkey', 'branch_decisions_pkey', 'orders_pkey', 'one_order_a_key'].includes(String(constraint));

/**
 * Errors that the code provokes on purpose: the loser of a race learns from them that it has lost, an effect on stock that
 * is still prepared is delivered again, and its time limits for locks, statements, open transactions and connections end
 * calls on a busy machine. Any other error that is not the scheduler's, such as a deadlock or a violated constraint, is a
 * defect.
 */
const isExpected = (code: string, constraint: unknown, message: string): boolean =>
  ['CL001', '55P03', '57014', '25P03', '40001'].includes(code) ||
  (code === '23505' && isDecidedByInserting(constraint)) ||
  // Another process is finishing the same prepared transaction: recovery looks again.
  (code === '55000' && /prepared transaction .* is busy/.test(message)) ||
  /timeout exceeded when trying to connect/.test(message);

/**
 * Controls one run: every statement and every message between modules stops here, and is let go in an order that follows
 * from the choices. When these are used up, the oldest call goes first and nothing fails any more.
 */
export class Interleaving {
  /** What happened, in order. */
  readonly log: string[] = [];
  /** Errors that neither the scheduler nor a lost race explains. */
  readonly defects: string[] = [];
  private readonly waiting: Gate[] = [];
  private readonly unawaited: Promise<unknown>[] = [];
  /** Statements under way, and how many transactions stay open. */
  private running = 0;
  private open = 0;
  private changes = 0;
  private isFree = false;

  private isRescued = false;

  /**
   * @param patience by actor: the higher, the less often its calls are let go
   * @param whenStuck ends transactions that others have left open, once statements wait for them and nothing else goes on
   * @param whenIdle does what becomes due, once all that is left to do is wait
   */
  constructor(
    private readonly choices: readonly Choice[],
    private readonly patience: (actor: string) => number,
    private readonly whenStuck: () => Promise<unknown>,
    private readonly whenIdle: () => Promise<unknown>,
  ) {}

  /** Runs all actors to their end. */
  static async run(interleaving: Interleaving, actors: readonly Actor[]): Promise<void> {
    current = interleaving;
    try {
      await interleaving.toTheEnd(actors);
    } finally {
      current = undefined;
      interleaving.isFree = true;
      for (const gate of interleaving.waiting.splice(0)) gate.open('goes');
    }
  }

  private async toTheEnd(actors: readonly Actor[]): Promise<void> {
    let left = actors.length;
    const acts = actors.map(([name, act]) =>
      acting
        .run(name, async () => {
          await this.stop('begins', ['goes']);
          await act();
        })
        .catch((error: unknown) => this.defects.push(`${name} failed: ${(error as Error).stack ?? String(error)}`))
        .finally(() => (left -= 1)),
    );
    let taken = 0;
    let idle = 0;
    let pauses = 0;
    for (const giveUpAt = realNow() + endsWithinMs; left > 0 || this.waiting.length > 0;) {
      await this.still();
      if (realNow() > giveUpAt) throw new Error(`the run does not end:\n${this.log.join('\n')}`);
      if (this.waiting.length > 0) {
        idle = 0;
        this.letGo(this.choices[taken++] ?? { pick: 0, fate: 'goes', along: 0 });
        continue;
      }
      await setTimeout(1);
      idle += 1;
      if (idle % idleLooks > 0) continue;
      pauses += 1;
      if (pauses % dueBeforeLate > 0) await this.whenIdle();
      else aheadMs += passesMs;
    }
    this.isFree = true;
    await Promise.all([...acts, ...this.unawaited]);
  }

  /** Makes a call once it is let go. */
  async call<Result>(call: string, possible: readonly Fate[], make: (fate: Fate) => Promise<Result>): Promise<Result> {
    const fate = await this.stop(call, possible);
    if (fate === 'is lost') throw outage(call);
    const result = await make(fate);
    if (fate === 'is not heard') throw outage(call);
    return result;
  }

  /** Notes a statement that is under way. */
  async under<Result>(call: string, work: () => Promise<Result>): Promise<Result> {
    this.changes += 1;
    this.running += 1;
    try {
      return await work();
    } catch (error) {
      const cause = ((error as Error).cause ?? error) as { code?: string; constraint?: unknown; message: string };
      const { code = '', constraint, message } = cause;
      // Those of the scheduler have no cause.
      const isOurs = error instanceof CleaveError && error.cause === undefined;
      if (!isOurs && !isExpected(code, constraint, message)) this.defects.push(`${call}: ${String(error)} (${code})`);
      throw error;
    } finally {
      this.running -= 1;
      this.changes += 1;
    }
  }

  /** Stops in the middle of a statement that is under way. */
  async pause(call: string, isCommit = false): Promise<void> {
    this.running -= 1;
    const fate = await this.stop(call, ['goes', 'is lost'], isCommit).finally(() => (this.running += 1));
    if (fate === 'is lost') throw outage(call);
  }

  /** Keeps a transaction open until its commit is let go. */
  async beforeCommit(call: string): Promise<void> {
    this.open += 1;
    await this.pause(`${call}: commit`, true).finally(() => (this.open -= 1));
  }

  /** Counts a prepared transaction, which keeps its locks until it is finished. */
  prepared(change: 1 | -1): void {
    this.open += change;
  }

  /** Another actor, which begins now and which nobody waits for, except the run. */
  beside(actor: string, act: () => Promise<unknown>): void {
    this.aside(acting.run(actor, act));
  }

  /** A call that nobody waits for, except the run. */
  aside(work: Promise<unknown>): void {
    this.unawaited.push(work.catch(() => undefined));
  }

  private stop(call: string, possible: readonly Fate[], isCommit = false): Promise<Fate> {
    if (this.isFree) return Promise.resolve('goes');
    this.changes += 1;
    const actor = acting.getStore() ?? 'nobody';
    return new Promise((open) => this.waiting.push({ actor, call, possible, isCommit, open }));
  }

  private letGo({ pick, fate, along }: Choice): void {
    for (let at = 0; at <= along && this.waiting.length > 0; at += 1) {
      const gate = this.picked(pick + at);
      const given = gate.possible.includes(fate) ? fate : 'goes';
      this.log.push(
        `${at > 0 ? '  together with ' : ''}${gate.actor}: ${gate.call}${given === 'goes' ? '' : ` ${given}`}`,
      );
      gate.open(given);
    }
  }

  /** Those of patient actors are picked less often, and so are commits, so that much happens before them. */
  private picked(pick: number): Gate {
    const ofActor = Map.groupBy(this.waiting, (it) => it.actor);
    const weights = this.waiting.map(
      ({ actor, isCommit }) => 1 / this.patience(actor) / ofActor.get(actor)!.length / (isCommit ? slowCommits : 1),
    );
    let at = 0;
    if (pick > 0) {
      let left = ((pick % 1_000) / 1_000) * weights.reduce((sum, it) => sum + it, 0);
      while (at < weights.length - 1 && (left -= weights[at]!) >= 0) at += 1;
    }
    return this.waiting.splice(at, 1)[0]!;
  }

  private rescueOnce(): void {
    if (this.isRescued) return;
    this.isRescued = true;
    this.beside('rescue', () => this.whenStuck().finally(() => (this.isRescued = false)));
  }

  /** Resolves once nothing moves any more, except what waits for a lock. */
  private async still(): Promise<void> {
    const startedAt = realNow();
    for (let calm = 0; calm < 8;) {
      const before = this.changes;
      await setImmediate();
      calm = this.changes === before && this.running === 0 ? calm + 1 : 0;
      const tookMs = realNow() - startedAt;
      if (this.running > 0 && this.open > 0 && tookMs > blockedAfterMs) {
        if (this.waiting.length > 0) return;
        this.rescueOnce();
      }
      if (this.running > 0 && tookMs > hangsAfterMs) {
        this.defects.push(`a statement does not come back:\n${this.log.join('\n')}`);
        return;
      }
    }
  }
}

/** From now on, the statements and messages of this process stop where a run says so. */
export const stopEverywhere = (): void => {
  const { query, readSafely, transaction, prepare, finishPrepared } = Sql.prototype;
  performance.now = () => realNow() + aheadMs;

  Sql.prototype.query = function <Row>(this: Sql, statement: Statement, values?: readonly unknown[]): Promise<Row[]> {
    const run = current;
    if (!run) return query.call(this, statement, values) as Promise<Row[]>;
    const { name } = statement;
    const inTransaction = () =>
      run.under(
        name,
        () =>
          transaction.call(this, async (sql: Queries) => {
            const rows = await sql.query<Row>(statement, values);
            await run.beforeCommit(name);
            return rows;
          }) as Promise<Row[]>,
      );
    return run.call(name, ['goes', 'is lost', 'is not heard', 'stays open', 'outlives its caller'], (fate) => {
      if (fate === 'stays open') return inTransaction();
      if (fate !== 'outlives its caller')
        return run.under(name, () => query.call(this, statement, values) as Promise<Row[]>);
      run.aside(inTransaction());
      throw outage(name);
    });
  };

  Sql.prototype.readSafely = function <T>(
    this: Sql,
    work: (sql: Queries) => Promise<T>,
    isTold?: (read: T) => boolean,
  ): Promise<T> {
    const run = current;
    if (!run) return readSafely.call(this, work as never, isTold as never) as Promise<T>;
    // Its name is that of its first statement, which is known once it is made.
    let name = '';
    const stopping = (sql: Queries): Queries => ({
      query: async <Row>(statement: Statement, values?: readonly unknown[]): Promise<Row[]> => {
        if (name === '') {
          ({ name } = statement);
          run.log.push(`    which is ${name}`);
        } else await run.pause(statement.name);
        return sql.query<Row>(statement, values);
      },
    });
    // Only inventory writes in this way.
    const possible: Fate[] = ['goes', 'is lost', 'is not heard'];
    const { name: module } = this as unknown as { name: string };
    if (module === 'inventory') possible.push('stays open');
    return run.call(`${module} reads safely`, possible, (fate) =>
      run.under(name, () =>
        fate === 'stays open'
          ? (transaction.call(this, async (sql: Queries) => {
              const read = await work(stopping(sql));
              await run.beforeCommit(name);
              return read;
            }) as Promise<T>)
          : (readSafely.call(this, ((sql: Queries) => work(stopping(sql))) as never, isTold as never) as Promise<T>),
      ),
    );
  };

  const ending: Fate[] = ['goes', 'is lost', 'is not heard'];
  Sql.prototype.prepare = function <T>(this: Sql, gid: string, work: (sql: Queries) => Promise<T>): Promise<T> {
    const run = current;
    if (!run) return prepare.call(this, gid, work) as Promise<T>;
    return run.call('PREPARE TRANSACTION', ending, () =>
      run.under('PREPARE TRANSACTION', async () => {
        const result = (await prepare.call(this, gid, work)) as T;
        run.prepared(1);
        return result;
      }),
    );
  };

  Sql.prototype.finishPrepared = function (this: Sql, gid: string, outcome: 'commit' | 'rollback'): Promise<boolean> {
    const run = current;
    if (!run) return finishPrepared.call(this, gid, outcome);
    const name = `${outcome.toUpperCase()} PREPARED`;
    return run.call(name, ending, () =>
      run.under(name, async () => {
        const existed = await finishPrepared.call(this, gid, outcome);
        if (existed) run.prepared(-1);
        return existed;
      }),
    );
  };

  const { clientFor } = Messenger.prototype;
  Messenger.prototype.clientFor = function <C extends Contract>(
    this: Messenger,
    contract: C,
    ...rest: [Parameters<typeof clientFor>[1], Parameters<typeof clientFor>[2]?]
  ): ContractClient<C> {
    const client = clientFor.call(this, contract, ...rest) as ContractClient<C>;
    return {
      call: (name, request, options) => {
        const run = current;
        if (!run) return client.call(name, request, options);
        const { idempotent } = contract.operations[name]!;
        const possible: Fate[] = ['goes', 'is lost', 'is not heard'];
        return run.call(`${contract.name}.${name}`, idempotent ? [...possible, 'goes twice'] : possible, (fate) => {
          if (fate === 'goes twice') run.aside(client.call(name, request, options));
          return client.call(name, request, options);
        });
      },
    };
  };
};
