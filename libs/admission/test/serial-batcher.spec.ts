import { once } from 'node:events';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { SerialBatcher } from '#admission';
import { CleaveError } from '#contracts';

const options = { mostAtOnce: 3, mostWaiting: 5, longestWaitMs: 60_000, tooMuch: 'More is to be done' };

/** The batches that were started. While `held` is set, none of them ends. */
let done: string[][];
let held: EventTarget | undefined;
const work = async (items: string[]): Promise<void> => {
  done.push(items);
  if (held) await once(held, 'end');
  if (items.includes('bad')) throw new Error('it cannot be done');
  if (items.includes('away')) throw new CleaveError('unavailable', 'nobody is there');
};
const release = (): void => {
  const was = held!;
  held = undefined;
  was.dispatchEvent(new Event('end'));
};

beforeEach(() => {
  done = [];
  held = new EventTarget();
});

const statuses = async (adding: Promise<void>[]): Promise<string[]> =>
  (await Promise.allSettled(adding)).map((it) =>
    it.status === 'fulfilled' ? 'done' : it.reason instanceof CleaveError ? it.reason.code : it.reason.message,
  );

describe('a serial batcher', () => {
  it('processes waiting items in batches of limited size, and refuses items when too many wait', async () => {
    const batcher = new SerialBatcher(options, work);
    const adding = ['first', 'a', 'b', 'c', 'd', 'e', 'too many'].map((it) => batcher.add(it));
    release();
    expect(await statuses(adding)).toEqual([...Array.from({ length: 6 }, () => 'done'), 'unavailable']);
    expect(done).toEqual([['first'], ['a', 'b', 'c'], ['d', 'e']]);
    await batcher.add('later');
    expect(done.at(-1)).toEqual(['later']);
  });

  it('refuses an item that waits too long, and does not process it later', async () => {
    const batcher = new SerialBatcher({ ...options, longestWaitMs: 20 }, work);
    const first = batcher.add('first');
    await expect(batcher.add('late')).rejects.toMatchObject({ code: 'unavailable' });
    release();
    await first;
    await batcher.add('next');
    expect(done).toEqual([['first'], ['next']]);
  });

  it('fails only the faulty item of a batch, but the whole batch if it is unavailable', async () => {
    const batcher = new SerialBatcher(options, work);
    const adding = ['first', 'a', 'bad', 'b', 'away', 'c'].map((it) => batcher.add(it));
    release();
    expect(await statuses(adding)).toEqual([
      ...['done', 'done', 'it cannot be done', 'done'],
      ...['unavailable', 'unavailable'],
    ]);
    expect(done.slice(-1)).toEqual([['away', 'c']]);
  });
});
