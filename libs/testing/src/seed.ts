import { randomInt } from 'node:crypto';

let chosen: number | undefined;

/** The seed of this test file: TEST_SEED, or a random one. It is printed once, so that a failure can be repeated. */
export function testSeed(): number {
  if (chosen === undefined) {
    const given = process.env['TEST_SEED'];
    chosen = given ? Number.parseInt(given, 10) : randomInt(2 ** 31);
    if (Number.isNaN(chosen)) throw new Error(`TEST_SEED must be an integer, not "${given}"`);
    process.stderr.write(`TEST_SEED=${chosen}\n`);
  }
  return chosen;
}

/** Random choices that a seed repeats. */
export class SeededRandom {
  private state: number;

  constructor(seed: number = testSeed()) {
    this.state = seed >>> 0;
  }

  /** A number from 0 up to, but not including, 1 (mulberry32). */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let mixed = this.state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** An integer from `least` to `most`, both included. */
  integer(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  /** One of the items; there must be at least one. */
  pick<Item>(items: readonly Item[]): Item {
    if (items.length === 0) throw new Error('there is nothing to pick from');
    return items[this.integer(0, items.length - 1)] as Item;
  }

  /** The items in another order. */
  shuffled<Item>(items: readonly Item[]): Item[] {
    const result = [...items];
    for (let last = result.length - 1; last > 0; last -= 1) {
      const other = this.integer(0, last);
      [result[last], result[other]] = [result[other] as Item, result[last] as Item];
    }
    return result;
  }
}
