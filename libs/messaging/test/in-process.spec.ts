import { describe, expect, it } from '@jest/globals';
import { getEventListeners } from 'node:events';
import { ServiceSecrets } from '#security';
import { contractClient, type Route } from '../src/client.js';
import { InProcessHub, InProcessRoute, InProcessServer } from '../src/in-process.js';
import { Signing } from '../src/signing.js';
import { operationOf } from '../src/wire.js';
import { probeContract } from './probe.js';

describe('a call in the same process', () => {
  it('waits while the application starts, and is refused once it has stopped', async () => {
    const hub = new InProcessHub();
    const client = contractClient(probeContract, new InProcessRoute(hub));
    const early = client.call('wait', { id: 'early' });
    const server = new InProcessServer(hub);
    const operation = operationOf(probeContract, 'wait');
    server.addHandler(operation.pattern, async ({ id }: { id: string }) => id, false, { operation });
    server.listen(() => {});
    expect(await early).toBe('early');
    hub.server = undefined;
    await expect(client.call('wait', { id: 'late' })).rejects.toMatchObject({ code: 'unavailable' });
  });

  it.each([
    [10, 'in the same turn of the event loop'],
    [100_000, 'in a later turn of the event loop, so that other work comes in between'],
  ])('with %i characters in its reply ends %s', async (length, when) => {
    const hub = new InProcessHub();
    const server = new InProcessServer(hub);
    const operation = operationOf(probeContract, 'work');
    const reply = { id: 'i', by: 'b', text: 'x'.repeat(length) };
    server.addHandler(operation.pattern, async () => reply, false, { operation });
    server.listen(() => {});
    const call = contractClient(probeContract, new InProcessRoute(hub)).call('work', {
      ...{ id: 'i', forMs: 0, length, text: '' },
    });
    let isLater = false;
    setImmediate(() => (isLater = true));
    expect(await call).toEqual(reply);
    expect(isLater).toBe(when.includes('later'));
  });

  it('leaves no timer or listener behind if its route throws', async () => {
    const timers = () => process.getActiveResourcesInfo().filter((it) => it === 'Timeout').length;
    const { signal } = new AbortController();
    const route = {
      ask: () => {
        throw new Error('there is no way');
      },
    };
    const before = timers();
    // Other code in this process may start a timer meanwhile, but not one for each call.
    const calls = 20;
    for (let made = 0; made < calls; made += 1)
      await expect(contractClient(probeContract, route).call('ping', undefined, { signal })).rejects.toMatchObject({
        code: 'unavailable',
        detail: 'probe.ping could not be called. Try again shortly.',
        cause: new Error('there is no way'),
      });
    expect(getEventListeners(signal, 'abort')).toEqual([]);
    expect(timers() - before).toBeLessThan(calls);
  });

  it('says each time it is sent how much time is left', async () => {
    const left: number[] = [];
    const route: Pick<Route, 'ask'> = {
      ask: ({ message }, ended) => {
        left.push(message().meta.remainingMs);
        setTimeout(() => {
          left.push(message().meta.remainingMs);
          ended(new Error('it was lost'));
        }, 50);
        return () => undefined;
      },
    };
    await expect(contractClient(probeContract, route).call('ping', undefined)).rejects.toMatchObject({
      code: 'unavailable',
    });
    expect(left[0]! - left[1]!).toBeGreaterThanOrEqual(45);
  });

  it('that waited for the start of the application fails if it cannot be signed', async () => {
    const hub = new InProcessHub();
    const secrets = new ServiceSecrets(['s'.repeat(32)]);
    const signing = new Signing(secrets, () => {
      throw new Error('there is no clock');
    });
    const early = contractClient(probeContract, new InProcessRoute(hub), undefined, signing).call('ping', undefined);
    new InProcessServer(hub).listen(() => {});
    await expect(early).rejects.toMatchObject({ code: 'unavailable' });
  });
});
