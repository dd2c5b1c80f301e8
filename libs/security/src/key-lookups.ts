import { LRUCache } from 'lru-cache';
import { Bulkhead } from '#admission';

const mostRemembered = 10_000;
/** How long an invalid key is refused without another lookup. */
const refusedForMs = 10_000;
/** How many lookups of either bulkhead run at once, each on a connection of the key store's pool. */
const atOnce = 2;
/** After a start, all keys are unknown: this is how many can be looked up before the first of them has waited too long. */
const mostStrangersWaiting = 1_000;
const longestWaitMs = 2_000;

const bulkheadOf = (mostWaiting: number): Bulkhead =>
  new Bulkhead({ atOnce, mostWaiting, longestWaitMs, tooMuch: 'More keys have to be looked up' });

/**
 * Looks up keys; concurrent requests with the same key share one lookup (single flight). Keys that were valid before have
 * their own bulkhead: unknown keys, however many, only wait for each other, and are refused if there are too many.
 */
export class KeyLookups<Found> {
  private readonly underWay = new Map<string, Promise<Found | undefined>>();
  private readonly familiar = new LRUCache<string, true>({ max: mostRemembered });
  private readonly refused = new LRUCache<string, true>({ max: mostRemembered, ttl: refusedForMs });
  private readonly ofFamiliar = bulkheadOf(mostRemembered);
  private readonly ofStrangers = bulkheadOf(mostStrangersWaiting);

  /**
   * @param key identifies the credential: the hash of all of it
   * @returns undefined for a key that is not valid
   * @throws CleaveError `unavailable` if too many unknown keys are waiting
   */
  find(key: string, look: () => Promise<Found | undefined>): Promise<Found | undefined> {
    if (this.refused.has(key)) return Promise.resolve(undefined);
    const known = this.underWay.get(key);
    if (known) return known;
    const looking: Promise<Found | undefined> = this.look(key, look, () => this.underWay.get(key) === looking);
    this.underWay.set(key, looking);
    return looking;
  }

  /** After a change, a new lookup may find something else than those under way. */
  forget(): void {
    this.underWay.clear();
    this.refused.clear();
  }

  private async look(
    key: string,
    look: () => Promise<Found | undefined>,
    isPresent: () => boolean,
  ): Promise<Found | undefined> {
    try {
      const found = await (this.familiar.has(key) ? this.ofFamiliar : this.ofStrangers).inTurn(look);
      if (found) this.familiar.set(key, true);
      else {
        this.familiar.delete(key);
        if (isPresent()) this.refused.set(key, true);
      }
      return found;
    } finally {
      if (isPresent()) this.underWay.delete(key);
    }
  }
}
