import { LRUCache } from 'lru-cache';
import { Lane } from '#admission';

const mostRemembered = 10_000;
/** How long a key that is none is refused without another look. */
const refusedForMs = 10_000;
/** Of the connections to where keys are kept, what either kind takes up at most. */
const atOnce = 2;
/** After a start all keys are strange: as many as can be looked up while the first of them still wait. */
const mostStrangersWaiting = 1_000;
const longestWaitMs = 2_000;

const laneOf = (mostWaiting: number): Lane =>
  new Lane({ atOnce, mostWaiting, longestWaitMs, tooMuch: 'More keys have to be looked up' });

/**
 * Looks keys up, each that is asked for several times at once one time. Those that were good before have a lane of their own:
 * however many ask with keys that nobody knows, they wait for each other alone, and some of them are sent away.
 */
export class KeyLookups<Found> {
  private readonly underWay = new Map<string, Promise<Found | undefined>>();
  private readonly familiar = new LRUCache<string, true>({ max: mostRemembered });
  private readonly refused = new LRUCache<string, true>({ max: mostRemembered, ttl: refusedForMs });
  private readonly ofFamiliar = laneOf(mostRemembered);
  private readonly ofStrangers = laneOf(mostStrangersWaiting);

  /**
   * @param key what is told apart: all that was sent of it, hashed
   * @returns undefined for one that is not good
   * @throws CleaveError `unavailable` where too many are asked for that nobody knows
   */
  find(key: string, look: () => Promise<Found | undefined>): Promise<Found | undefined> {
    if (this.refused.has(key)) return Promise.resolve(undefined);
    const known = this.underWay.get(key);
    if (known) return known;
    const looking: Promise<Found | undefined> = this.look(key, look, () => this.underWay.get(key) === looking);
    this.underWay.set(key, looking);
    return looking;
  }

  /** What is read from now on may be something else than what is being read. */
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
