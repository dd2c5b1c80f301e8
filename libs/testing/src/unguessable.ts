/**
 * How many bits of the values cannot be derived from their other bits, nor from other values: none of a constant, few of
 * a counter, all of random values, given a hundred more values than bits.
 *
 * @param values in hex, all of the same length
 */
export const independentBits = (values: readonly string[]): number => {
  const [first = 0n, ...others] = values.map((it) => BigInt(`0x${it}`));
  // The rank of their differences over GF(2), by Gaussian elimination.
  const rows = new Map<number, bigint>();
  for (const other of others) {
    let rest = other ^ first;
    while (rest !== 0n) {
      const top = rest.toString(2).length;
      const row = rows.get(top);
      if (row === undefined) {
        rows.set(top, rest);
        break;
      }
      rest ^= row;
    }
  }
  return rows.size;
};
