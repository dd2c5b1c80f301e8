import type { Contestant } from './contestants.js';
import type { Stage } from './stage.js';

export interface Outcome {
  /** What was observed, in some words. */
  did: string;
  /** Whether it kept from what the race is about. */
  holds: boolean;
}

/** Events in an order that is made to happen, and what the cache gives out after them. */
export interface Race {
  name: string;
  run(contestant: Contestant, stage: Stage): Promise<Outcome>;
}
