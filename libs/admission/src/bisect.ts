import { CleaveError } from '#contracts';

/**
 * Does a whole batch at once. If it fails, it is bisected (retried in halves), so that an item that cannot be done fails
 * alone; in an outage (status 503) the whole batch fails.
 *
 * @param work settles all items it is given, or throws; it may be given settled ones again
 */
export const bisect = async <Waiting extends { reject: (error: unknown) => void }>(
  batch: Waiting[],
  work: (some: Waiting[]) => Promise<void>,
): Promise<void> => {
  try {
    await work(batch);
  } catch (error) {
    const isOutage = error instanceof CleaveError && error.status === 503;
    if (batch.length === 1 || isOutage) {
      for (const { reject } of batch) reject(error);
      return;
    }
    const middle = Math.ceil(batch.length / 2);
    await bisect(batch.slice(0, middle), work);
    await bisect(batch.slice(middle), work);
  }
};
