import { setTimeout } from 'node:timers/promises';

const patienceMs = 30_000;

/** Repeats the check until it passes; fails with its last failure when it does not within half a minute. */
export const eventually = async <T>(check: () => Promise<T>): Promise<T> => {
  const giveUpAt = Date.now() + patienceMs;
  for (let pauseMs = 10; ; pauseMs = Math.min(pauseMs * 2, 250)) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > giveUpAt) throw error;
    }
    await setTimeout(pauseMs);
  }
};
