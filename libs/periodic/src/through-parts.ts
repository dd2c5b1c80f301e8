/** The result of looking at one part. */
interface Look {
  looked_at: Date;
  /** The number of parts; one if it is left out. */
  parts?: number | undefined;
  /** Whether another look at the same part would find more. */
  hasMore: boolean;
}

/**
 * Looks at all parts in order, from 0, and at each of them until it has no more.
 *
 * @returns the time from which a later look finds everything new: the first one that was reported, or an earlier one if
 * the clock was set back meanwhile; undefined if it was stopped before the end
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
