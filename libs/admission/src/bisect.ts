import { CleaveError } from '#contracts';

export const isOutage = (error: unknown): error is CleaveError => error instanceof CleaveError && error.status === 503;

/**
 * Does a whole batch at once. If it fails, it is bisected (retried in halves), so that an item that cannot be done fails
 * alone; in an outage the whole batch fails.
 *
 * @param work settles all items it is given, or throws; it may be given settled ones again
 * @param fail receives the items that failed for good, with their error
 */
export const bisect = async <Item>(
  batch: readonly Item[],
  work: (some: readonly Item[]) => Promise<void>,
  fail: (failed: readonly Item[], error: unknown) => void,
): Promise<void> => {
  try {
    await work(batch);
  } catch (error) {
    if (batch.length === 1 || isOutage(error)) return fail(batch, error);
    const middle = Math.ceil(batch.length / 2);
    await bisect(batch.slice(0, middle), work, fail);
    await bisect(batch.slice(middle), work, fail);
  }
};
