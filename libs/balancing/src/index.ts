/** Which of several instances gets a call, and what becomes of it when that one fails: the same over any transport. */
export { balancePolicy, type BalancePolicy } from './balance.js';
export { reportTo } from './metrics.js';
export type { Instance, Outcome } from './target.js';
export {
  NoAddress,
  Targets,
  type Attempt,
  type Attempts,
  type Lookup,
  type Place,
  type TargetsOptions,
} from './targets.js';
