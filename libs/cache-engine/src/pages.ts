/** Most keys that Redis is asked about at once: it answers nobody else meanwhile. */
const largestPage = 512;

/** Not so much at a time that Redis keeps others waiting. */
export const pagesOf = <Item>(items: readonly Item[], most = largestPage): Item[][] => {
  const pages: Item[][] = [];
  for (let at = 0; at < items.length; at += most) pages.push(items.slice(at, at + most));
  return pages;
};
