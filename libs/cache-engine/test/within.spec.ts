import { stat } from 'node:fs/promises';
import { expect, it } from '@jest/globals';
import { within } from '../src/within.js';

const standStill = (ms: number): void => {
  for (const until = performance.now() + ms; performance.now() < until;);
};

it('accepts an answer that arrived while the event loop was blocked', async () => {
  const answered = within(20, 'looking', () => stat(import.meta.filename));
  standStill(200);
  expect((await answered).isFile()).toBe(true);
});

it('rejects if there is no answer in time', async () => {
  await expect(within(20, 'waiting', () => new Promise(() => undefined))).rejects.toThrow(
    'waiting: no answer within 20 ms',
  );
});
