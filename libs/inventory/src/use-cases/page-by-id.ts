/** A page of a list in the order of product ids, and the last id of it; `null` if there is no further page. */
export interface PageById<Item> {
  data: Item[];
  last: string | null;
}

/** @param read returns at most that many items */
export const pageById = async <Item extends { product_id: string }>(
  read: (limit: number) => Promise<Item[]>,
  limit: number,
): Promise<PageById<Item>> => {
  // One more than asked for tells whether there is a next page.
  const found = await read(limit + 1);
  const data = found.slice(0, limit);
  return { data, last: found.length > limit ? (data.at(-1)?.product_id ?? null) : null };
};
