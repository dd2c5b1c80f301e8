/**
 * Processes the items in order, up to `concurrency` at a time. After the first failure, or `stop`, no further item begins;
 * those running are awaited, and then the failure is thrown.
 *
 * @param work gets a signal that is aborted as soon as no further item begins
 */
export const concurrently = async <Item>(
  items: Item[],
  concurrency: number,
  stop: AbortSignal,
  work: (item: Item, stop: AbortSignal) => Promise<void>,
): Promise<void> => {
  const failure = new AbortController();
  const stopped = AbortSignal.any([stop, failure.signal]);
  const remaining = items.values();
  const worker = async (): Promise<void> => {
    for (const item of remaining) {
      if (stopped.aborted) return;
      try {
        await work(item, stopped);
      } catch (error) {
        failure.abort(error);
      }
    }
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
  stopped.throwIfAborted();
};
