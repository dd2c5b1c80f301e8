/** Splits items into rounds with at most one item per key, so that those of a key stay in sequence. */
export const roundsOf = <Item>(items: readonly Item[], keyOf: (item: Item) => string): Item[][] => {
  const rounds: Item[][] = [];
  for (const ofKey of Map.groupBy(items, keyOf).values())
    ofKey.forEach((item, round) => (rounds[round] ??= []).push(item));
  return rounds;
};
