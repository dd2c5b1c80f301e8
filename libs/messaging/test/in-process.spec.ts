import { describe, expect, it } from '@jest/globals';
import { firstValueFrom } from 'rxjs';
import { InProcessClient, InProcessHub, InProcessServer } from '../src/in-process.js';

describe('what is asked in the same process', () => {
  it('waits while the application starts, and is refused once it has stopped', async () => {
    const hub = new InProcessHub();
    const client = new InProcessClient(hub);
    const early = firstValueFrom(client.send('probe.ask', {}));
    const server = new InProcessServer(hub);
    server.addHandler('probe.ask', () => Promise.resolve('answered'));
    server.listen(() => {});
    expect(await early).toBe('answered');
    hub.server = undefined;
    await expect(firstValueFrom(client.send('probe.ask', {}))).rejects.toMatchObject({ code: 'unavailable' });
  });
});
