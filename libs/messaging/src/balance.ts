import { z } from 'zod';

export const balancePolicy = z.enum(['random', 'round-robin', 'least-loaded']).default('least-loaded');
export type BalancePolicy = z.output<typeof balancePolicy>;

/** Picks one of the candidates, of which there is at least one. */
export type Balance = <Candidate extends { inFlight: number }>(candidates: readonly Candidate[]) => Candidate;

const below = (bound: number): number => Math.floor(Math.random() * bound);

const random: Balance = <Candidate>(candidates: readonly Candidate[]) =>
  candidates[below(candidates.length)] as Candidate;

const roundRobin = (): Balance => {
  let turn = below(1_000);
  return <Candidate>(candidates: readonly Candidate[]) => candidates[turn++ % candidates.length] as Candidate;
};

/** Power of two choices: nearly as even as asking all, and callers that know only their own load do not herd. */
const leastLoaded: Balance = <Candidate extends { inFlight: number }>(candidates: readonly Candidate[]) => {
  const first = below(candidates.length);
  const second = (first + 1 + below(candidates.length - 1)) % candidates.length;
  const [one, other] = [candidates[first] as Candidate, candidates[second] as Candidate];
  return other.inFlight < one.inFlight ? other : one;
};

const balances: Record<BalancePolicy, () => Balance> = {
  random: () => random,
  'round-robin': roundRobin,
  'least-loaded': () => leastLoaded,
};

export const balanceBy = (policy: BalancePolicy): Balance => balances[policy]();
