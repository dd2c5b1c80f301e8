import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { cacheContract } from '#contracts';
import { MessagingModule, Messenger, address } from '#messaging';
import { ServiceSecrets } from '#security';
import { NestFactory } from '@nestjs/core';
import { AppProcess } from '../support/app-process.js';
import { servicePorts } from '../support/shapes.js';

const secret = 'known-to-all-services-and-to-nobody-else';

describe('a service that receives messages', () => {
  let service: AppProcess;
  let at: string;
  const closed: (() => Promise<void>)[] = [];
  beforeAll(async () => {
    const [port, messages] = await servicePorts(2);
    at = `tcp://127.0.0.1:${messages}`;
    service = new AppProcess('cache', { PORT: String(port), CACHE_LISTEN: at, SERVICE_SECRET: secret });
    service.spawn();
    await service.untilReady(`http://127.0.0.1:${port}/health/ready`);
  });
  afterAll(async () => {
    for (const close of closed) await close();
    await service?.stop();
  });

  const asking = async (theirs: string | undefined): Promise<string> => {
    const secrets = theirs === undefined ? undefined : new ServiceSecrets([theirs]);
    const app = await NestFactory.createApplicationContext(MessagingModule.forRoot({ secrets }), { logger: false });
    closed.push(() => app.close());
    const client = app.get(Messenger).clientFor(cacheContract, address.parse(at));
    return client.call('get', { key: 'k' }).then(
      () => 'answered',
      ({ code, detail }: { code: string; detail: string }) => `${code}: ${detail}`,
    );
  };

  it('answers callers that sign with its SERVICE_SECRET and refuses all others', async () => {
    expect(await asking(secret)).toBe('answered');
    expect(await asking(undefined)).toMatch(/^internal: cache.get .* is not signed; set the same SERVICE_SECRET/);
    expect(await asking(`${secret}.`)).toMatch(/^internal: cache.get .* is signed with another secret/);
    expect(service.log).toMatch(/cache.get received a message that is not signed/);
    expect(service.log).not.toContain(secret);
  });
});
