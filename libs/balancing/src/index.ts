/** Picks one of several instances for each call, and handles instances that fail: the same over every transport. */
export { balancePolicy, type BalancePolicy } from './balance.js';
export { reportTo } from './metrics.js';
export type { Instance, Outcome } from './target.js';
export {
  NoAddress,
  Targets,
  addressesOf,
  type Attempt,
  type Attempts,
  type Lookup,
  type Place,
  type TargetsOptions,
} from './targets.js';
