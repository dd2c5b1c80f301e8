/**
 * Works on at most `atOnce` items at a time. After a failure it begins no others, and throws once those under way have ended,
 * so that no work overlaps with its own repeat.
 *
 * @returns the results, in the order of the items
 */
export const mapConcurrently = async <Item, Result>(
  items: readonly Item[],
  atOnce: number,
  work: (item: Item) => Promise<Result>,
): Promise<Result[]> => {
  const results: Result[] = [];
  const waiting = items.entries();
  let hasFailed = false;
  const worker = async (): Promise<void> => {
    try {
      for (const [index, item] of waiting) if (!hasFailed) results[index] = await work(item);
    } catch (error) {
      hasFailed = true;
      throw error;
    }
  };
  const workers = Array.from({ length: Math.min(atOnce, items.length) }, worker);
  await Promise.allSettled(workers);
  await Promise.all(workers);
  return results;
};
