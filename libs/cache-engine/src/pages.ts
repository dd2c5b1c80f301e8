/** The most keys in one command: Redis serves no one else meanwhile. */
export const largestPage = 512;

/** Splits items into pages, so that no command keeps other clients of Redis waiting. */
export const pagesOf = <Item>(items: readonly Item[], most = largestPage): Item[][] => {
  const pages: Item[][] = [];
  for (let at = 0; at < items.length; at += most) pages.push(items.slice(at, at + most));
  return pages;
};
