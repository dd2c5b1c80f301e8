import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { CleaveError } from '#contracts';
import { testSeed } from '#testing';
import { Batcher, type BatchLimits, type Bounds, type Patience, type Size } from '../src/use-cases/batcher.js';
import { settled } from './order-under-test.js';

const unbounded: Bounds = {
  items: Number.POSITIVE_INFINITY,
  lines: Number.POSITIVE_INFINITY,
  bytes: Number.POSITIVE_INFINITY,
};
const limits: BatchLimits = { lanes: 2, slowMs: 1, batch: { items: 4, lines: 10, bytes: 1_000 }, waiting: unbounded };

/** A batcher of numbers, each with as many lines, whose batches end when the test ends them. */
const gated = (more: Partial<BatchLimits> = {}) => {
  const batches: { items: number[]; end: PromiseWithResolvers<(number | Error)[]> }[] = [];
  let arrived: PromiseWithResolvers<void> = Promise.withResolvers();
  const batcher = new Batcher<number, number>({ ...limits, ...more }, (items) => {
    const end = Promise.withResolvers<(number | Error)[]>();
    batches.push({ items, end });
    arrived.resolve();
    arrived = Promise.withResolvers();
    return end.promise;
  });
  const until = async (count: number) => {
    while (batches.length < count) await arrived.promise;
  };
  const succeed = (index: number) => batches[index]!.end.resolve(batches[index]!.items.map((it) => it * 10));
  const add = (item: number, size: Partial<Size> = {}, patience?: Patience) =>
    batcher.add(item, { lines: item, bytes: 1, ...size }, patience);
  return { add, batches, until, succeed, items: () => batches.map((it) => it.items) };
};

const oneLine: Size = { lines: 1, bytes: 1 };

describe('batches', () => {
  it('take the waiting items in order, within the limits of items and lines, on the available lanes', async () => {
    const { add, until, succeed, items } = gated();
    const answers = Promise.all([1, 1, 1, 1, 1, 9, 2, 30, 1].map((it) => add(it)));
    await until(2);
    expect(items()).toEqual([
      [1, 1, 1, 1],
      [1, 9],
    ]);
    succeed(1);
    await until(3);
    expect(items()[2]).toEqual([2]);
    succeed(2);
    await until(4);
    // Too large for any batch, so it goes alone.
    expect(items()[3]).toEqual([30]);
    succeed(3);
    await until(5);
    succeed(4);
    succeed(0);
    expect(await answers).toEqual([10, 10, 10, 10, 10, 90, 20, 300, 10]);
  });

  it('leave out items whose caller has stopped waiting', async () => {
    const { add, until, succeed, items } = gated({ lanes: 1 });
    const first = add(1);
    await until(1);
    const late = settled(add(2, {}, { deadlineMs: Date.now() + 20 }));
    let hasGone = false;
    const gone = settled(add(2, {}, { isGone: () => hasGone }));
    const patient = add(3, {}, { deadlineMs: Date.now() + 60_000, isGone: () => false });
    await setTimeout(30);
    hasGone = true;
    succeed(0);
    await until(2);
    succeed(1);
    expect(items()).toEqual([[1], [3]]);
    expect(await late).toMatchObject({ code: 'deadline-exceeded' });
    expect(await gone).toMatchObject({ code: 'cancelled' });
    expect(await Promise.all([first, patient])).toEqual([10, 30]);
    // No item of the batch is left, so the lane is free for the next batch.
    const alone = settled(add(4, {}, { deadlineMs: Date.now() - 1 }));
    expect(await alone).toMatchObject({ code: 'deadline-exceeded' });
    const last = add(5);
    await until(3);
    succeed(2);
    expect(await last).toBe(50);
  });

  it('stay within the limit of bytes, except for a single item that exceeds it', async () => {
    const { add, until, succeed, items } = gated({ lanes: 1 });
    const sizes = [600, 400, 1, 999, 5_000, 1];
    const answers = Promise.all(sizes.map((bytes, index) => add(index, { lines: 1, bytes })));
    for (const [index, batch] of [[0, 1], [2, 3], [4], [5]].entries()) {
      await until(index + 1);
      expect(items()[index]).toEqual(batch);
      succeed(index);
    }
    expect(await answers).toEqual([0, 10, 20, 30, 40, 50]);
  });

  it('start beside a slow batch, however small they are', async () => {
    const { add, until, succeed, items } = gated();
    const first = [add(1), add(1), add(1)];
    await until(1);
    const second = add(2);
    await until(2);
    const rest = [add(3), add(4)];
    succeed(1);
    await until(3);
    expect(items()).toEqual([[1, 1, 1], [2], [3, 4]]);
    succeed(2);
    expect(await Promise.all([second, ...rest])).toEqual([20, 30, 40]);
    succeed(0);
    expect(await Promise.all(first)).toEqual([10, 10, 10]);
  });

  it('are gathered while a batch that is not slow is in flight, and start once they are as large as that', async () => {
    const { add, until, succeed, items } = gated({ slowMs: 60_000 });
    const answers = [add(1), add(1)];
    await until(1);
    answers.push(add(2));
    await setTimeout(20);
    expect(items()).toHaveLength(1);
    answers.push(add(3));
    await until(2);
    expect(items()[1]).toEqual([2, 3]);
    answers.push(add(4));
    succeed(1);
    await setTimeout(20);
    expect(items()).toHaveLength(2);
    succeed(0);
    await until(3);
    expect(items()[2]).toEqual([4]);
    succeed(2);
    expect(await Promise.all(answers)).toEqual([10, 10, 20, 30, 40]);
  });
});

describe('the queue', () => {
  it('refuses an item at once while it is full, and accepts items again afterwards', async () => {
    const { add, until, succeed } = gated({ lanes: 1, waiting: { ...unbounded, items: 3 } });
    const first = add(1);
    await until(1);
    const waiting = [add(2), add(3), add(4)];
    await expect(add(5)).rejects.toMatchObject({ code: 'unavailable' });
    succeed(0);
    await until(2);
    const after = add(6);
    succeed(1);
    await until(3);
    succeed(2);
    expect(await Promise.all([first, ...waiting, after])).toEqual([10, 20, 30, 40, 60]);
  });

  it.each([
    ['lines', 12],
    ['bytes', 70],
  ] as const)(
    'refuses items beyond its limit of %s, accepts those that fit, and regains its room once empty',
    async (unit, most) => {
      const { add, until, succeed, items } = gated({ lanes: 1, waiting: { ...unbounded, [unit]: most } });
      const sized = (item: number, size: number) => add(item, { ...oneLine, [unit]: size });
      const first = sized(0, 1);
      await until(1);
      const waiting = [sized(1, most - 2)];
      for (const size of [3, most, most + 1, Number.MAX_SAFE_INTEGER])
        await expect(sized(9, size)).rejects.toMatchObject({ code: 'unavailable' });
      // A refused item takes no space in the queue.
      waiting.push(sized(2, 1), sized(3, 1));
      await expect(sized(9, 1)).rejects.toMatchObject({ code: 'unavailable' });
      succeed(0);
      for (let done = 1; items().flat().length < 4; done += 1) {
        await until(done + 1);
        succeed(done);
      }
      expect(await Promise.all([first, ...waiting])).toEqual([0, 10, 20, 30]);

      const before = items().length;
      const again = [sized(4, most)];
      // An item in flight no longer waits, so its space is free.
      await until(before + 1);
      again.push(sized(5, most));
      await expect(sized(9, 1)).rejects.toMatchObject({ code: 'unavailable' });
      succeed(before);
      await until(before + 2);
      succeed(before + 1);
      expect(await Promise.all(again)).toEqual([40, 50]);
    },
  );

  it('regains its room after a batch or an item has failed', async () => {
    const { add, batches, until, succeed } = gated({ lanes: 1, waiting: { items: 2, lines: 20, bytes: 20 } });
    const size = { lines: 10, bytes: 10 };
    for (const [round, failure] of [
      new CleaveError('unavailable', 'gone'),
      new Error('a bug'),
      [new Error('its own')],
    ].entries()) {
      const at = round * 3;
      const first = settled(add(1, size));
      await until(at + 1);
      const waiting = [settled(add(2, size)), settled(add(3, size))];
      await expect(add(9, oneLine)).rejects.toMatchObject({ code: 'unavailable' });
      if (failure instanceof Error) batches[at]!.end.reject(failure);
      else batches[at]!.end.resolve(failure);
      expect(await first).toBeInstanceOf(Error);
      await until(at + 2);
      succeed(at + 1);
      await until(at + 3);
      succeed(at + 2);
      expect(await Promise.all(waiting)).toEqual([20, 30]);
    }
  });
});

it('for any arrivals, batches stay within their limits and in order, and only items without room are refused', async () => {
  // Mostly small, so that each of the bounds is sometimes the only one that is reached.
  const amount = fc.oneof({ weight: 3, arbitrary: fc.integer({ min: 1, max: 4 }) }, fc.integer({ min: 1, max: 14 }));
  const size = fc.record({ lines: amount, bytes: amount });
  const bounds = { items: 4, lines: 10, bytes: 12 };
  const waiting = { items: 12, lines: 60, bytes: 50 };
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(size, { maxLength: 20, size: 'max' }), { maxLength: 8 }), async (arrivals) => {
      const sizes: Size[] = [];
      const batches: number[][] = [];
      let inFlight = 0;
      const batcher = new Batcher<number, number>({ lanes: 2, slowMs: 1, batch: bounds, waiting }, async (items) => {
        inFlight += 1;
        expect(inFlight).toBeLessThanOrEqual(2);
        batches.push(items);
        await new Promise(setImmediate);
        inFlight -= 1;
        return items;
      });
      const answers: Promise<number | Error>[] = [];
      const admitted: number[] = [];
      for (const group of arrivals) {
        for (const it of group) {
          // What was admitted and is in no batch yet.
          const queue = admitted.slice(batches.flat().length);
          const sum = (unit: keyof Size) => queue.reduce((total, at) => total + sizes[at]![unit], it[unit]);
          const fits = queue.length < waiting.items && sum('lines') <= waiting.lines && sum('bytes') <= waiting.bytes;
          if (fits) admitted.push(sizes.length);
          sizes.push(it);
          answers.push(settled(batcher.add(sizes.length - 1, it)));
        }
        await new Promise(setImmediate);
      }
      const results = await Promise.all(answers);
      for (const [at, it] of results.entries())
        if (!admitted.includes(at)) expect(it).toMatchObject({ code: 'unavailable' });
      expect(results.filter((it) => !(it instanceof Error))).toEqual(admitted);
      expect(batches.flat()).toEqual(admitted);
      for (const batch of batches) {
        const sum = (unit: keyof Size) => batch.reduce((total, it) => total + sizes[it]![unit], 0);
        expect(batch.length).toBeLessThanOrEqual(bounds.items);
        if (batch.length === 1) continue;
        expect(sum('lines')).toBeLessThanOrEqual(bounds.lines);
        expect(sum('bytes')).toBeLessThanOrEqual(bounds.bytes);
      }
      // Nothing is left in the queue that would take space.
      expect(await Promise.all(Array.from({ length: 12 }, () => batcher.add(0, oneLine)))).toEqual(Array(12).fill(0));
    }),
    { seed: testSeed(), numRuns: 200 },
  );
});

describe('failures', () => {
  it('of one item do not affect the others of its batch', async () => {
    const { add, batches, until } = gated();
    const answers = Promise.all([1, 2, 3].map((it) => settled(add(it))));
    await until(1);
    batches[0]!.end.resolve([10, new CleaveError('unknown-product', 'no'), 30]);
    expect(await answers).toEqual([10, expect.objectContaining({ code: 'unknown-product' }), 30]);
  });

  it('of a whole batch fail all its items without a retry, and free the lane', async () => {
    let calls = 0;
    const batcher = new Batcher<number, number>({ ...limits, lanes: 1 }, async (items) => {
      calls += 1;
      if (calls === 1) throw new CleaveError('deadline-exceeded', 'late');
      return items;
    });
    const answers = await Promise.all([1, 2, 3].map((it) => settled(batcher.add(it, oneLine))));
    for (const it of answers) expect(it).toMatchObject({ code: 'deadline-exceeded' });
    expect(calls).toBe(1);
    expect(await batcher.add(4, oneLine)).toBe(4);
  });
});
