import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from '@jest/globals';
import { throttled } from '#periodic';

it('throttled runs the first call at once, then at most one per period', async () => {
  const said: string[] = [];
  const [one, other] = [throttled(200), throttled(200)];
  for (const word of ['first', 'second', 'third']) one(() => said.push(word));
  other(() => said.push('of another kind'));
  expect(said).toEqual(['first', 'of another kind']);
  await sleep(250);
  for (const word of ['later', 'last']) one(() => said.push(word));
  expect(said).toEqual(['first', 'of another kind', 'later']);
});
