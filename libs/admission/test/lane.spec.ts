import { expect, it } from '@jest/globals';
import { Lane } from '#admission';
import { currentWork, withWork } from '#telemetry';

it('a lane runs waiting work in the context of its own caller', async () => {
  const lane = new Lane({ atOnce: 1, mostWaiting: 2, longestWaitMs: 60_000, tooMuch: 'More is to be done' });
  const first = Promise.withResolvers<void>();
  const tenantOf = async (gate?: Promise<void>): Promise<string | undefined> => {
    await gate;
    return currentWork()?.tenant;
  };
  const asked = [
    withWork({ tenant: 'a' }, () => lane.inTurn(() => tenantOf(first.promise))),
    withWork({ tenant: 'b' }, () => lane.inTurn(() => tenantOf())),
    lane.inTurn(() => tenantOf()),
  ];
  first.resolve();
  expect(await Promise.all(asked)).toEqual(['a', 'b', undefined]);
});
