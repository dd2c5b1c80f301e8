import { CleaveError } from '#contracts';
import { PeriodicJob } from '#periodic';
import type { MasterKeys } from './master-keys.js';

const everyMs = 60_000;
const batchSize = 500;

/** Encrypts stored data with the newest master key, so that earlier ones can be removed. */
export abstract class KeyRotation<Row> extends PeriodicJob {
  /** The master keys that stored data needs but that are not configured, as of the last run. */
  missing: readonly string[] = [];
  /** By master key: how many rows that name it could not be decrypted with it. */
  stuck: ReadonlyMap<string, number> = new Map();

  /** @param what the data, in the plural, for log messages */
  constructor(
    protected readonly masters: MasterKeys,
    private readonly what: string,
  ) {
    super(everyMs, `${what} could not be encrypted with the newest of DATA_KEYS; trying again in a minute`);
  }

  /** The ids of the master keys that the rows are encrypted with; null if some rows are not encrypted. */
  protected abstract mastersInUse(): Promise<(string | null)[]>;
  /** At most `limit` rows encrypted with this master key, in a stable order, starting after `after`. */
  protected abstract under(master: string | null, after: Row | undefined, limit: number): Promise<Row[]>;
  /** The row, encrypted with the newest master key. @throws CleaveError if it cannot be decrypted */
  protected abstract renewed(row: Row, master: string | null): Row;
  /** Stores the rows, except those that have changed meanwhile: other instances may be doing the same. */
  protected abstract replace(master: string | null, rows: readonly { before: Row; after: Row }[]): Promise<void>;

  async execute(): Promise<void> {
    const inUse = await this.mastersInUse();
    const known = inUse.filter((it) => it === null || this.masters.has(it));
    this.tellMissing(inUse.filter((it) => it !== null).filter((it) => !this.masters.has(it)));
    const { newest } = this.masters;
    if (!newest) return;
    const stuck = new Map<string, number>();
    // These need no work, but a sample shows whether this key is the one that encrypted them. If it decrypts none of
    // them, it is another key under the same id, and no more rows may be encrypted with it.
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

  /** For the health check. */
  condition(): Promise<{ isDegraded: boolean; details: Record<string, unknown> }> {
    const { missing, stuck } = this;
    const details = {
      ...(missing.length > 0 && { missing }),
      ...(stuck.size > 0 && { stuck: Object.fromEntries(stuck) }),
    };
    return Promise.resolve({ isDegraded: missing.length + stuck.size > 0, details });
  }

  /** @returns how many rows could not be decrypted: they stay unchanged and do not hold up the others */
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
        `${this.what} are encrypted with ${missing.join()}, which DATA_KEYS does not contain: add it after the first one`,
      );
    this.missing = missing;
  }

  private tellStuck(stuck: ReadonlyMap<string, number>): void {
    for (const [master, count] of stuck)
      if (!this.stuck.has(master))
        this.logger.error(
          `${count} of the ${this.what} cannot be decrypted with the key that DATA_KEYS calls ${master}: ` +
            'another key had that name before, or the data was changed. Rename this key and add the earlier one, or restore the data',
        );
    this.stuck = stuck;
  }

  private tellDone(old: readonly (string | null)[], inUse: readonly (string | null)[], newest: string): void {
    for (const master of old.filter((it) => !inUse.includes(it)))
      this.logger.log(
        `none of the ${this.what} is ${master === null ? 'unencrypted' : `encrypted with ${master}`} any more; they are encrypted with ${newest} now`,
      );
  }
}
