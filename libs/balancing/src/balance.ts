import { z } from 'zod';

export const balancePolicy = z.enum(['random', 'round-robin', 'least-loaded']).default('least-loaded');
export type BalancePolicy = z.output<typeof balancePolicy>;

/** What a policy knows about an instance. */
export interface Candidate {
  /** The expected cost of one more call, for comparison; see `costOf`. */
  cost(): number;
}

/** Picks one of the candidates, of which there is at least one. */
export type Balance = <C extends Candidate>(candidates: readonly C[]) => C;

/** A number from 0 up to, but not including, 1. */
export type Random = () => number;

const below = (bound: number, random: Random): number => Math.floor(random() * bound);

const atRandom =
  (random: Random): Balance =>
  <C>(candidates: readonly C[]) =>
    candidates[below(candidates.length, random)] as C;

const roundRobin = (random: Random): Balance => {
  let turn = below(1_000, random);
  return <C>(candidates: readonly C[]) => candidates[turn++ % candidates.length] as C;
};

/**
 * Power of two choices: spreads load nearly as evenly as comparing all instances, and callers that know only their own load
 * do not all choose the same one.
 *
 * @see M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS 12(10), 2001
 */
const leastLoaded =
  (random: Random): Balance =>
  <C extends Candidate>(candidates: readonly C[]) => {
    if (candidates.length === 1) return candidates[0] as C;
    const first = below(candidates.length, random);
    const second = (first + 1 + below(candidates.length - 1, random)) % candidates.length;
    const [one, other] = [candidates[first] as C, candidates[second] as C];
    return other.cost() < one.cost() ? other : one;
  };

const policies: Record<BalancePolicy, (random: Random) => Balance> = {
  random: atRandom,
  'round-robin': roundRobin,
  'least-loaded': leastLoaded,
};

export const balanceBy = (policy: BalancePolicy, random: Random = Math.random): Balance => policies[policy](random);
