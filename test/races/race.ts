import type { Contestant } from './contestants.js';
import type { Stage } from './stage.js';

export interface Outcome {
  /** A short description of what was observed. */
  did: string;
  /** Whether the cache passed the race. */
  holds: boolean;
}

/** A forced order of events, and what the cache returns after them. */
export interface Race {
  name: string;
  run(contestant: Contestant, stage: Stage): Promise<Outcome>;
}
