import { setTimeout } from 'node:timers/promises';

/** Repeats the check until it passes; when the time is up, fails with the last failure. */
export const eventually = async <T>(check: () => Promise<T> | T, patienceMs = 30_000): Promise<T> => {
  const giveUpAt = Date.now() + patienceMs;
  for (let pauseMs = 10; ; pauseMs = Math.min(pauseMs * 2, 100)) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > giveUpAt) throw error;
    }
    await setTimeout(pauseMs);
  }
};

/** Waits until the condition holds; when the time is up, fails. */
export const until = async (isSo: () => boolean | Promise<boolean>, patienceMs = 120_000): Promise<void> => {
  for (const giveUpAt = Date.now() + patienceMs; !(await isSo()); await setTimeout(5))
    if (Date.now() > giveUpAt) throw new Error(`waited in vain for ${String(isSo)}`);
};
