import { setTimeout } from 'node:timers/promises';

const longestPauseMs = 500;

/** A pause between runs, so that each begins on a quiet machine; shorter before a very short one. */
export const pauseBefore = (seconds: number): Promise<void> => setTimeout(Math.min(longestPauseMs, seconds * 250));

/** A measurement that is repeated in every round. */
export interface Turn {
  name: string;
  take(round: number): Promise<void>;
}

/**
 * Each takes a turn in every round, alternating the direction (A B C, C B A, …): if the machine becomes slower or faster
 * meanwhile, it does so for all of them.
 */
export const takeTurns = async (turns: readonly Turn[], rounds: number, say: (line: string) => void): Promise<void> => {
  for (let round = 0; round < rounds; round += 1)
    for (const turn of round % 2 === 0 ? turns : turns.toReversed()) {
      say(`round ${round + 1} of ${rounds}: ${turn.name}`);
      await turn.take(round);
    }
};
