import { expect, it } from '@jest/globals';
import { Bulkhead } from '#admission';
import { currentWork, withWork } from '#telemetry';

it('a bulkhead runs waiting work in the context of its own caller', async () => {
  const bulkhead = new Bulkhead({ atOnce: 1, mostWaiting: 2, longestWaitMs: 60_000, tooMuch: 'More is to be done' });
  const first = Promise.withResolvers<void>();
  const tenantOf = async (gate?: Promise<void>): Promise<string | undefined> => {
    await gate;
    return currentWork()?.tenant;
  };
  const asked = [
    withWork({ tenant: 'a' }, () => bulkhead.inTurn(() => tenantOf(first.promise))),
    withWork({ tenant: 'b' }, () => bulkhead.inTurn(() => tenantOf())),
    bulkhead.inTurn(() => tenantOf()),
  ];
  first.resolve();
  expect(await Promise.all(asked)).toEqual(['a', 'b', undefined]);
});
