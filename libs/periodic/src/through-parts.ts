/** What a look at one part has come to. */
interface Look {
  looked_at: Date;
  /** How many parts there are; one where nothing is said of it. */
  parts?: number | undefined;
  /** Whether the same look would find more. */
  hasMore: boolean;
}

/**
 * Looks at everything part by part, from 0, at each as often as there is more of it.
 *
 * @returns since when a later look finds all that is new: the first moment that was told, or a later one where the clock was
 *   set back meanwhile; undefined when it was stopped before the end
 */
export const throughParts = async (
  look: (part: number) => Promise<Look>,
  stopping: AbortSignal,
): Promise<Date | undefined> => {
  let began: Date | undefined;
  for (let part = 0; !stopping.aborted;) {
    const { looked_at, parts = 1, hasMore } = await look(part);
    if (!began || looked_at < began) began = looked_at;
    if (hasMore) continue;
    part += 1;
    if (part >= parts) return began;
  }
  return undefined;
};
