import { describe, expect, it } from '@jest/globals';
import { contractClient } from '../src/client.js';
import { InProcessHub, InProcessRoute, InProcessServer } from '../src/in-process.js';
import { operationOf } from '../src/wire.js';
import { probeContract } from './probe.js';

describe('what is asked in the same process', () => {
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
});
