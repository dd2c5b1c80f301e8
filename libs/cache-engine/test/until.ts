import { setTimeout } from 'node:timers/promises';

const patienceMs = 30_000;

/** Waits until the condition holds, and fails if that takes too long. */
export const until = async (isSo: () => boolean | Promise<boolean>): Promise<void> => {
  for (const giveUpAt = Date.now() + patienceMs; !(await isSo()); await setTimeout(5))
    if (Date.now() > giveUpAt) throw new Error(`waited in vain for ${String(isSo)}`);
};
