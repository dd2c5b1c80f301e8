import { CleaveError } from '#contracts';
import { PeriodicWork } from '#periodic';
import type { MasterKeys } from './master-keys.js';

const everyMs = 60_000;
const batchSize = 500;

/** Encrypts what is kept by the newest master key, so that those before it can be taken away. */
export abstract class KeyRotation<Row> extends PeriodicWork {
  /** The master keys that are needed and not configured, as they were when it was last looked. */
  missing: readonly string[] = [];
  /** By master key: how many of those that are said to take it could not be decrypted by it. */
  stuck: ReadonlyMap<string, number> = new Map();

  /** @param what it is, in the plural, for the operator */
  constructor(
    protected readonly masters: MasterKeys,
    private readonly what: string,
  ) {
    super(everyMs, `${what} could not be encrypted by the newest of DATA_KEYS, which is tried again in a minute`);
  }

  /** The names of the master keys that it takes to decrypt them; null where there are some that are not encrypted. */
  protected abstract mastersInUse(): Promise<(string | null)[]>;
  /** At most `limit` of those that take a master key, always in the same order, those behind `after`. */
  protected abstract under(master: string | null, after: Row | undefined, limit: number): Promise<Row[]>;
  /** One of them, under the newest master key. @throws CleaveError where it cannot be decrypted */
  protected abstract renewed(row: Row, master: string | null): Row;
  /** Keeps them, but for those that have changed meanwhile: others may do the same at the same time. */
  protected abstract replace(master: string | null, rows: readonly { before: Row; after: Row }[]): Promise<void>;

  async execute(): Promise<void> {
    const inUse = await this.mastersInUse();
    const known = inUse.filter((it) => it === null || this.masters.has(it));
    this.tellMissing(inUse.filter((it) => it !== null).filter((it) => !this.masters.has(it)));
    const { newest } = this.masters;
    if (!newest) return;
    const stuck = new Map<string, number>();
    // Those are where they should be. Whether it is the key that they were encrypted by is seen by some of them, and nothing is
    // to follow them where it is another one.
    const some = known.includes(newest.id) ? await this.under(newest.id, undefined, batchSize) : [];
    const strange = some.length - this.renewable(some, newest.id).length;
    if (strange > 0) stuck.set(newest.id, strange);
    const old = known.filter((it) => it !== newest.id);
    if (strange > 0 && strange === some.length) return this.tellStuck(stuck);
    for (const master of old) {
      const left = await this.renew(master);
      if (this.stopping.signal.aborted) return;
      if (left > 0) stuck.set(String(master), left);
    }
    this.tellStuck(stuck);
    if (old.length > 0) this.tellDone(old, await this.mastersInUse(), newest.id);
  }

  /** For the health. */
  condition(): Promise<{ isDegraded: boolean; details: Record<string, unknown> }> {
    const { missing, stuck } = this;
    const details = {
      ...(missing.length > 0 && { missing }),
      ...(stuck.size > 0 && { stuck: Object.fromEntries(stuck) }),
    };
    return Promise.resolve({ isDegraded: missing.length + stuck.size > 0, details });
  }

  /** @returns how many could not be decrypted: they stay as they are, and hold up none of the others */
  private async renew(master: string | null): Promise<number> {
    let left = 0;
    let last: Row | undefined;
    while (!this.stopping.signal.aborted) {
      const rows = await this.under(master, last, batchSize);
      const renewed = this.renewable(rows, master);
      if (renewed.length > 0) await this.replace(master, renewed);
      left += rows.length - renewed.length;
      last = rows.at(-1);
      if (rows.length < batchSize) break;
    }
    return left;
  }

  private renewable(rows: readonly Row[], master: string | null): { before: Row; after: Row }[] {
    return rows.flatMap((before) => {
      try {
        return [{ before, after: this.renewed(before, master) }];
      } catch (error) {
        if (error instanceof CleaveError) return [];
        throw error;
      }
    });
  }

  private tellMissing(missing: readonly string[]): void {
    if (missing.some((it) => !this.missing.includes(it)))
      this.logger.error(
        `${this.what} are encrypted by way of ${missing.join()}, which DATA_KEYS does not have: add it behind the first one`,
      );
    this.missing = missing;
  }

  private tellStuck(stuck: ReadonlyMap<string, number>): void {
    for (const [master, count] of stuck)
      if (!this.stuck.has(master))
        this.logger.error(
          `${count} of the ${this.what} are not encrypted by way of the key that DATA_KEYS calls ${master}, and cannot be read: ` +
            'another one had that name, or they were changed. Give this one another name and add the one that it was, or restore them',
        );
    this.stuck = stuck;
  }

  private tellDone(old: readonly (string | null)[], inUse: readonly (string | null)[], newest: string): void {
    for (const master of old.filter((it) => !inUse.includes(it)))
      this.logger.log(
        `none of the ${this.what} is ${master === null ? 'kept as it is' : `encrypted by way of ${master}`} any more, but by way of ${newest}`,
      );
  }
}
