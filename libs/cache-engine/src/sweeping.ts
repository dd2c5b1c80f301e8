import { setTimeout as sleep } from 'node:timers/promises';
import type { Attempts } from './attempts.js';
import type { Connection } from './connection.js';
import { largestScript } from './key-scripts.js';
import { pagesOf } from './pages.js';
import { noVersion } from './scripts.js';

/** Keys scanned in one step of a sweep. */
const sweepPage = 500;
const firstSweepAgainMs = 1_000;
const longestSweepAgainMs = 60_000;

/**
 * A cleared namespace: the tag with its version, a pattern of the keys of its entries and counters, and the prefix of the
 * latter.
 */
export interface Swept {
  tag: string;
  pattern: string;
  counters: string;
}

type OfVersion = readonly [key: string, version: string];

/** Deletes entries and counters of cleared namespaces that no one can read any more. */
export class Sweeping {
  /** The namespaces being swept, by tag, and whether another sweep is needed afterwards. */
  private readonly sweeping = new Map<string, boolean>();

  constructor(
    private readonly connection: Connection,
    private readonly attempts: Attempts,
    private readonly versionOf: (tag: string) => Promise<string>,
    private readonly complain: (message: string) => void,
  ) {}

  /**
   * Deletes entries and counters of earlier versions of a namespace, on every master, page by page. Runs in the background,
   * and retries after a failure.
   */
  sweep(space: Swept): void {
    const { tag } = space;
    if (this.sweeping.has(tag)) {
      this.sweeping.set(tag, true);
      return;
    }
    this.sweeping.set(tag, true);
    void this.sweepUntilDone(space);
  }

  private async sweepUntilDone(space: Swept): Promise<void> {
    const { tag, pattern } = space;
    let waitMs = firstSweepAgainMs;
    while (this.sweeping.get(tag) && !this.connection.isStopped) {
      this.sweeping.set(tag, false);
      try {
        await this.sweepAll(space);
      } catch (error) {
        if (this.connection.isStopped) break;
        this.sweeping.set(tag, true);
        const { cause = error } = error as Error;
        this.complain(
          `Cleared entries of ${pattern} could not be deleted from Redis yet, trying again in ${waitMs} ms: ${String(cause)}`,
        );
        await sleep(waitMs, undefined, { ref: false });
        waitMs = Math.min(2 * waitMs, longestSweepAgainMs);
      }
    }
    this.sweeping.delete(tag);
  }

  private async sweepAll({ tag, pattern, counters }: Swept): Promise<void> {
    const { connection, attempts } = this;
    const isCounter = (key: string): boolean => key.startsWith(counters);
    let current: string | undefined;
    let lastOld = noVersion;
    for (const client of await attempts.attempt('sweep', undefined, () => connection.masterClients())) {
      let cursor = '0';
      do {
        const page = await attempts.attempt('sweep', undefined, () =>
          client.scan(cursor, { MATCH: pattern, COUNT: sweepPage }),
        );
        const entries = page.keys.filter((key) => !isCounter(key)).map((key) => [key, lastOld] as const);
        // The name of a counter begins with its version.
        const counted = page.keys
          .filter(isCounter)
          .map((key) => [key, key.slice(counters.length, key.indexOf(':', counters.length))] as const);
        const doubtful = [...(await this.sweepKeys(entries)), ...counted].filter(([, version]) => version !== current);
        if (doubtful.length > 0) {
          // Read after the keys were scanned: their versions were current earlier, and a version never recurs, so any other
          // version than this one is outdated.
          current = await this.versionOf(tag);
          const old = doubtful.filter(([, version]) => version !== current);
          // A counter is not an entry, so the script compares it with `noVersion`.
          await this.sweepKeys(old.map(([key, version]) => [key, isCounter(key) ? noVersion : version] as const));
          lastOld = old.findLast(([key]) => !isCounter(key))?.[1] ?? lastOld;
        }
        ({ cursor } = page);
      } while (cursor !== '0' && !connection.isStopped);
    }
  }

  /**
   * @param entries with the outdated version that each is expected to have
   * @returns the entries that have another version, with that version
   */
  private async sweepKeys(entries: readonly OfVersion[]): Promise<OfVersion[]> {
    const { kind, client } = this.connection.redis;
    const found: OfVersion[] = [];
    // One page after the other, so that neither Redis nor this process is blocked for long.
    for (const page of pagesOf(entries, largestScript)) {
      const [keys, versions] = [page.map(([key]) => key), page.map(([, version]) => version)];
      const left = await this.attempts.attempt('sweep', undefined, async () => {
        if (kind === 'server') return client.sweep(keys, versions);
        // In a cluster, the keys of one node lie in many slots.
        return (await Promise.all(keys.map((key, at) => client.sweep([key], [versions[at]!])))).flat();
      });
      for (const [at, key] of keys.entries()) if (left[at] !== null) found.push([key, left[at]!]);
    }
    return found;
  }
}
