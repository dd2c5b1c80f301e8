import { CleaveError } from '#contracts';

/**
 * Does all of a batch at once. What fails, and not because of an outage, is tried again by halves, so that what cannot be done
 * fails alone; in an outage all of it fails.
 *
 * @param work settles each of those it is given, or throws; those it has settled by then may be given to it again
 */
export const byHalves = async <Waiting extends { reject: (error: unknown) => void }>(
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
    await byHalves(batch.slice(0, middle), work);
    await byHalves(batch.slice(middle), work);
  }
};
