import { expect, it } from '@jest/globals';
import { mapConcurrently } from '../src/map-concurrently.js';

it('returns the results in the order of the items, whichever ends first', async () => {
  const ends = Array.from({ length: 3 }, () => Promise.withResolvers<string>());
  const mapped = mapConcurrently(ends, 3, (it) => it.promise);
  for (const at of [2, 0, 1]) ends[at]!.resolve(`result ${at}`);
  expect(await mapped).toEqual(['result 0', 'result 1', 'result 2']);
});

it('begins no others after a failure, and throws once those under way have ended', async () => {
  const [failing, slow] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const begun: number[] = [];
  const ended: number[] = [];
  const mapped = mapConcurrently([failing, slow, slow, slow], 2, async (it) => {
    const at = begun.push(begun.length);
    await it.promise;
    ended.push(at);
  });
  const caught = mapped.catch((error: unknown) => ({ error, begun: begun.length, ended: ended.length }));
  failing.reject(new Error('no'));
  await new Promise(setImmediate);
  slow.resolve();
  expect(await caught).toEqual({ error: new Error('no'), begun: 2, ended: 1 });
});
