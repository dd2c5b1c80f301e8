/** SQL: the number of lines in the data of an event `e`. */
export const toldLines = `coalesce(jsonb_array_length(e.data->'lines'), 0)`;

/**
 * SQL: the rows, each with its number of lines in `size`, up to the one that reaches `most` lines; `so_far` is the running
 * total. The first row is included whatever its size. Lines are counted before any of them are read.
 *
 * @param rows a query
 * @param order its columns to sort by, prefixed with `s.`
 */
export const withinLines = (rows: string, order: string, most: string): string => `(
    SELECT * FROM (
      SELECT s.*, sum(s.size) OVER (ORDER BY ${order} ROWS UNBOUNDED PRECEDING) AS so_far FROM (${rows}) s
    ) t WHERE t.so_far - t.size < ${most}
  )`;
