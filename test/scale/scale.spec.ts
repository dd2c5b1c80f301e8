import { describe, expect, it } from '@jest/globals';
import { SeededRandom } from '#testing';
import { hotBaskets, partitionOf, spreadBaskets, type Baskets } from './baskets.js';
import { Clock, Cores, RowLocks } from './clock.js';
import { simulate, type ClusterSettings } from './cluster.js';
import { costsOf, defaultInputs, inputNames, type InputName } from './costs.js';
import { crossingOf } from './crossing.js';
import { policies, sellOut } from './escrow.js';
import { readOptions, usage } from './options.js';

const inputs = Object.fromEntries(inputNames.map((it) => [it, defaultInputs[it].value])) as Record<InputName, number>;
const costs = costsOf(inputs);

const small: ClusterSettings = {
  ...{ partitions: 2, cores: 2, processes: 2, callers: 16, rounds: 8 },
  ...{ protocol: 'held', merging: true, seed: 7 },
};

/** Orders of one to six products, of which the first ones are more popular. */
const mixed = (random: SeededRandom): Baskets => ({
  name: 'mix',
  products: 40,
  orders: Array.from({ length: 200 }, () => {
    const products = new Set(
      Array.from({ length: random.integer(1, 6) }, () => Math.floor(40 * random.next() * random.next())),
    );
    return [...products].map((product) => ({ product, quantity: random.integer(1, 5) }));
  }),
});

describe('the simulated clock', () => {
  it('runs events by time, and simultaneous ones in the order they were scheduled', () => {
    const clock = new Clock();
    const random = new SeededRandom();
    const happened: [number, number][] = [];
    for (let turn = 0; turn < 500; turn += 1) {
      const ms = random.integer(0, 20);
      clock.after(ms, () => happened.push([ms, turn]));
    }
    clock.run();
    expect(happened).toEqual(happened.toSorted(([a, x], [b, y]) => a - b || x - y));
    expect(happened).toHaveLength(500);
  });

  it('runs as much work in parallel as there are cores', () => {
    const clock = new Clock();
    const cores = new Cores(clock, 2);
    const endedAt: number[] = [];
    for (let work = 0; work < 5; work += 1) cores.use(10, () => endedAt.push(clock.nowMs));
    clock.run();
    expect(endedAt).toEqual([10, 10, 20, 20, 30]);
  });

  it('grants row locks in order of request, and requests for other rows at once', () => {
    const locks = new RowLocks();
    const granted: string[] = [];
    locks.acquire(new Set([1, 2]), () => granted.push('first'));
    locks.acquire(new Set([2, 3]), () => granted.push('second'));
    locks.acquire(new Set([3]), () => granted.push('third, behind the second'));
    locks.acquire(new Set([4]), () => granted.push('fourth'));
    expect(granted).toEqual(['first', 'fourth']);
    locks.release(new Set([1, 2]));
    locks.release(new Set([2, 3]));
    expect(granted).toEqual(['first', 'fourth', 'second', 'third, behind the second']);
  });
});

describe('the simulation', () => {
  it.each(['held', 'prepared'] as const)(
    'is repeatable with the same seed and differs with another: %s',
    (protocol) => {
      const baskets = mixed(new SeededRandom(1));
      const run = (seed: number) =>
        simulate(baskets, { ...small, protocol, merging: protocol === 'held', seed }, costs);
      expect(run(7)).toEqual(run(7));
      expect(run(8)).not.toEqual(run(7));
    },
  );

  it.each(['held', 'prepared'] as const)('sells scarce stock without overselling: %s', (protocol) => {
    const random = new SeededRandom();
    for (const partitions of [1, 2, 5]) {
      const settings = {
        ...small,
        protocol,
        merging: false,
        partitions,
        supply: 0.4,
        seed: random.integer(0, 2 ** 31),
      };
      const { oversold, refused, refusedForNothing, sold } = simulate(mixed(random), settings, costs);
      expect(oversold).toBe(0);
      expect(refused).toBeGreaterThan(0);
      expect(refusedForNothing).toBeLessThanOrEqual(refused);
      expect(sold).toBeGreaterThan(0.3);
      expect(sold).toBeLessThanOrEqual(1);
      // A single database decides an order at once, so nothing is held for an order that is refused elsewhere.
      if (partitions === 1) expect(refusedForNothing).toBe(0);
    }
  });

  it('sells a single product no faster with more databases, unless it is split into sub-stocks', () => {
    const of = (change: Partial<ClusterSettings>) =>
      simulate(hotBaskets, { ...small, processes: 4, callers: 128, rounds: 6, ...change }, costs).perSecond;
    const together = of({ partitions: 4 });
    expect(together).toBeLessThan(1.3 * of({ partitions: 1, processes: 16 }));
    expect(of({ partitions: 4, buckets: 4 })).toBeGreaterThan(1.5 * together);
  });

  it('never crosses databases with orders of one line', () => {
    expect(crossingOf(spreadBaskets, 8, 1)).toMatchObject({ crossing: 0, touched: 1 });
    const used = new Set(spreadBaskets.orders.map(([line]) => partitionOf(line!.product, 8, 1)));
    expect(used.size).toBe(8);
  });
});

describe('sub-stocks', () => {
  it.each(policies)('neither lose nor create units with the policy %s', (policy) => {
    const random = new SeededRandom();
    for (const buckets of [1, 3, 16])
      expect(
        sellOut({ buckets, policy, units: 500, quantities: [1, 2, 7], seed: random.integer(0, 2 ** 31) }).wrong,
      ).toBe(0);
  });

  it('refuse no order of one unit needlessly if each of them is asked', () => {
    const of = (policy: (typeof policies)[number]) =>
      sellOut({ buckets: 16, policy, units: 1_000, quantities: [1], seed: 3 }).refusedForNothing;
    expect(of('each')).toBe(0);
    expect(of('own')).toBeGreaterThan(0);
  });
});

describe('the options', () => {
  it('document every input with its unit and source in the usage text', () => {
    for (const name of inputNames) expect(usage()).toContain(`  ${name} `);
    expect(readOptions(['limits', '--set', 'commitMs=2'])).toMatchObject({
      parts: ['limits'],
      inputs: { commitMs: 2 },
    });
  });

  it('report what is wrong', () => {
    expect(() => readOptions(['--set', 'commit=2'])).toThrow(/There is no input commit; there are .*commitMs/);
    expect(() => readOptions(['--set', 'commitMs='])).toThrow(/must be a number from 0 on/);
    expect(() => readOptions(['everything'])).toThrow(/There is no part everything; there are limits/);
    expect(() => readOptions(['--cores', '0'])).toThrow(/must be a whole number from 1 to 256/);
  });
});
