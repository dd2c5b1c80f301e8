/** SQL: how many lines an event `e` tells of. */
export const toldLines = `coalesce(jsonb_array_length(e.data->'lines'), 0)`;

/**
 * SQL: the rows, each of so many lines by its `size`, up to the one that brings them to the most; `so_far` is what they come
 * to. The first goes through whatever its size. Lines are counted before any of them are read.
 *
 * @param rows a query
 * @param order of its columns, as those of `s`
 */
export const withinLines = (rows: string, order: string, most: string): string => `(
    SELECT * FROM (
      SELECT s.*, sum(s.size) OVER (ORDER BY ${order} ROWS UNBOUNDED PRECEDING) AS so_far FROM (${rows}) s
    ) t WHERE t.so_far - t.size < ${most}
  )`;
