import { beforeEach, describe, expect, it } from '@jest/globals';
import type { NewAuditEntry } from '#security';
import { AuditEntries, KeepAudit, mostRefused } from '../src/use-cases/keep-audit.js';

/** Stores entries in memory, or fails. */
class Entries extends AuditEntries {
  readonly kept: { account: string; requests: number }[] = [];
  isAway = false;
  /** What the next entry waits for, and fails with. */
  answer: Promise<never> | undefined;

  async add({ account }: NewAuditEntry, requests: number): Promise<void> {
    const { answer } = this;
    this.answer = undefined;
    await answer;
    if (this.isAway) throw new Error(`nothing can be written of ${account}`);
    this.kept.push({ account, requests });
  }

  addEnd(entry: NewAuditEntry): Promise<void> {
    return this.add(entry, 1);
  }
}

const refusalOf = (account: string): NewAuditEntry => ({
  ...{ tenant: 'default', account, key_id: null, is_operator: false, operation: 'createKey', target: '/keys' },
  ...{ request_id: `of ${account}`, status: 403 },
});

let entries: Entries;
let audit: KeepAudit;
let said: string[];
beforeEach(() => {
  entries = new Entries();
  audit = new KeepAudit(entries);
  said = [];
  const say = (line: string) => void said.push(line);
  Object.assign(audit, { logger: { warn: say, error: say } });
});

const refuse = (account: string) => audit.appendRefusal(refusalOf(account), account);
/** So often that the last refusal is only counted and gets no entry of its own. */
const refuseOften = async (account: string): Promise<void> => {
  for (let times = 0; times < 11; times += 1) await refuse(account);
};

it('KeepAudit adds the refusals that are counted while a count is being written to that count, if it fails', async () => {
  await refuseOften('first');
  const { promise, reject } = Promise.withResolvers<never>();
  entries.answer = promise;
  const writing = audit.execute();
  await refuseOften('first');
  reject(new Error('no answer'));
  await expect(writing).rejects.toThrow('no answer');
  await audit.execute();
  expect(entries.kept.at(-1)).toEqual({ account: 'first', requests: 2 });
});

describe('KeepAudit, when more callers are refused than it counts at a time', () => {
  it('writes the counts of the first caller, without an error', async () => {
    await refuseOften('first');
    for (let count = 1; count < mostRefused; count += 1) await refuse(`a-${count}`);
    const before = entries.kept.length;
    await refuse('one more');
    expect(entries.kept.slice(before)).toEqual(
      expect.arrayContaining([
        { account: 'first', requests: 1 },
        { account: 'one more', requests: 1 },
      ]),
    );
    expect(said).toEqual([]);
  });

  it('logs the counts of the first caller if they cannot be written, and nothing about others', async () => {
    await refuseOften('first');
    await refuseOften('second');
    for (let count = 2; count < mostRefused; count += 1) await refuse(`a-${count}`);
    entries.isAway = true;
    await expect(refuse('one more')).rejects.toThrow('nothing can be written of one more');
    // The refusal was counted nevertheless; the entry about it is not repeated.
    entries.isAway = false;
    for (let times = 1; times < 10; times += 1) await refuse('one more');
    entries.isAway = true;
    await refuse('one more');
    await new Promise(setImmediate);
    expect(said).toHaveLength(1);
    expect(JSON.parse(/\{.*\}/.exec(said[0]!)![0])).toEqual({
      ...{ tenant: 'default', account: 'first', operation: 'createKey', requests: 1, last: 'of first' },
    });
    expect(said[0]).not.toContain('one more');
  });

  it('keeps a bounded number of counts, even if none can be written', async () => {
    for (let count = 0; count < mostRefused; count += 1) await refuseOften(`a-${count}`);
    entries.isAway = true;
    for (let count = 0; count < 50; count += 1) await refuse(`b-${count}`).catch(() => undefined);
    await new Promise(setImmediate);
    expect(said.filter((it) => it.includes('are missing from the audit log'))).toHaveLength(50);
    entries.isAway = false;
    const before = entries.kept.length;
    await audit.execute();
    expect(entries.kept.length - before).toBe(mostRefused - 50);
  });
});
