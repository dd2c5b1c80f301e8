import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from '@jest/globals';
import { cachedFor } from '#periodic';

it('cachedFor reads a value once per period, also for concurrent callers', async () => {
  let read = 0;
  const ask = cachedFor(2_000, 10_000, async () => {
    await sleep(20);
    return (read += 1);
  });
  expect(await Promise.all(Array.from({ length: 50 }, ask))).toEqual(Array.from({ length: 50 }, () => 1));
  expect([await ask(), read]).toEqual([1, 1]);
  await sleep(2_050);
  expect([await ask(), read]).toEqual([2, 2]);
});

it('cachedFor repeats a failure to all callers, and retries after the period', async () => {
  let tried = 0;
  const ask = cachedFor(2_000, 10_000, () => {
    tried += 1;
    throw new Error(`failure ${tried}`);
  });
  for (let times = 0; times < 3; times += 1) await expect(ask()).rejects.toThrow('failure 1');
  await sleep(2_050);
  await expect(ask()).rejects.toThrow('failure 2');
});

it('cachedFor reads again if a read does not answer in time, and does not keep the late answer', async () => {
  const answers: ((value: string) => void)[] = [];
  const ask = cachedFor(10_000, 100, () => new Promise<string>((resolve) => answers.push(resolve)));
  const [first, same] = [ask(), ask()];
  await sleep(150);
  const second = ask();
  expect(answers).toHaveLength(2);
  answers[1]!('second');
  answers[0]!('first');
  expect(await Promise.all([first, same, second, ask()])).toEqual(['first', 'first', 'second', 'second']);
});
