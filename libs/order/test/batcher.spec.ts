import { describe, expect, it } from '@jest/globals';
import { CleaveError } from '#contracts';
import { Batcher, type BatchLimits } from '../src/use-cases/batcher.js';
import { settled } from './order-under-test.js';

const limits: BatchLimits = { lanes: 2, items: 4, weight: 10, queued: 20 };

/** A batcher of numbers whose batches end when the test says so. */
const gated = (more: Partial<BatchLimits> = {}) => {
  const batches: { items: number[]; end: PromiseWithResolvers<(number | Error)[]> }[] = [];
  let arrived: PromiseWithResolvers<void> = Promise.withResolvers();
  const batcher = new Batcher<number, number>(
    { ...limits, ...more },
    (it) => it,
    (items) => {
      const end = Promise.withResolvers<(number | Error)[]>();
      batches.push({ items, end });
      arrived.resolve();
      arrived = Promise.withResolvers();
      return end.promise;
    },
  );
  const until = async (count: number) => {
    while (batches.length < count) await arrived.promise;
  };
  const succeed = (index: number) => batches[index]!.end.resolve(batches[index]!.items.map((it) => it * 10));
  return { batcher, batches, until, succeed, items: () => batches.map((it) => it.items) };
};

describe('batches', () => {
  it('take what arrived together at once, in order, within items and weight, on no more lanes than there are', async () => {
    const { batcher, until, succeed, items } = gated();
    const answers = Promise.all([1, 1, 1, 1, 1, 9, 2, 30, 1].map((it) => batcher.add(it)));
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
    // Too heavy for any batch, so it goes alone.
    expect(items()[3]).toEqual([30]);
    succeed(3);
    await until(5);
    succeed(4);
    succeed(0);
    expect(await answers).toEqual([10, 10, 10, 10, 10, 90, 20, 300, 10]);
  });

  it('do not wait for company: a free lane takes one alone while another is busy', async () => {
    const { batcher, until, succeed, items } = gated();
    const first = batcher.add(1);
    await until(1);
    const second = batcher.add(2);
    await until(2);
    const rest = [batcher.add(3), batcher.add(4)];
    succeed(1);
    await until(3);
    expect(items()).toEqual([[1], [2], [3, 4]]);
    succeed(2);
    expect(await Promise.all([second, ...rest])).toEqual([20, 30, 40]);
    succeed(0);
    expect(await first).toBe(10);
  });

  it('refuse at once who comes beyond the queue, and nobody else', async () => {
    const { batcher, until, succeed } = gated({ lanes: 1, queued: 3 });
    const first = batcher.add(1);
    await until(1);
    const waiting = [batcher.add(2), batcher.add(3), batcher.add(4)];
    await expect(batcher.add(5)).rejects.toMatchObject({ code: 'unavailable' });
    succeed(0);
    await until(2);
    const after = batcher.add(6);
    succeed(1);
    await until(3);
    succeed(2);
    expect(await Promise.all([first, ...waiting, after])).toEqual([10, 20, 30, 40, 60]);
  });
});

describe('failures', () => {
  it('of one item are its own', async () => {
    const { batcher, batches, until } = gated();
    const answers = Promise.all([1, 2, 3].map((it) => settled(batcher.add(it))));
    await until(1);
    batches[0]!.end.resolve([10, new CleaveError('unknown-product', 'no'), 30]);
    expect(await answers).toEqual([10, expect.objectContaining({ code: 'unknown-product' }), 30]);
  });

  it('of a whole batch are narrowed down to the items that cause them', async () => {
    const processed: number[][] = [];
    const batcher = new Batcher<number, number>(
      { ...limits, items: 16, weight: 1_000 },
      () => 1,
      async (items) => {
        processed.push(items);
        if (items.includes(7) || items.includes(8)) throw new Error(`poison in ${items.join()}`);
        return items.map((it) => it * 10);
      },
    );
    const answers = await Promise.all(Array.from({ length: 16 }, (_, it) => settled(batcher.add(it))));
    answers.forEach((answer, it) => {
      if (it === 7 || it === 8) expect(answer).toEqual(new Error(`poison in ${it}`));
      else expect(answer).toBe(it * 10);
    });
    expect(processed[0]).toHaveLength(16);
    expect(processed.length).toBeLessThanOrEqual(1 + 2 * 2 * 4);
  });

  it('by an outage are everybody’s at once, without asking again, and the lane is free afterwards', async () => {
    let calls = 0;
    const batcher = new Batcher<number, number>(
      { ...limits, lanes: 1 },
      () => 1,
      async (items) => {
        calls += 1;
        if (calls === 1) throw new CleaveError('deadline-exceeded', 'late');
        return items;
      },
    );
    const answers = await Promise.all([1, 2, 3].map((it) => settled(batcher.add(it))));
    for (const it of answers) expect(it).toMatchObject({ code: 'deadline-exceeded' });
    expect(calls).toBe(1);
    expect(await batcher.add(4)).toBe(4);
  });
});
