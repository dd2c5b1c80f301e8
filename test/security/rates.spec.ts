import { afterEach, describe, expect, it } from '@jest/globals';
import { testDatabase } from '#testing';
import { Api, refused } from '../support/api.js';
import { AppProcess } from '../support/app-process.js';
import { GrpcApi } from '../support/grpc.js';
import { servicePorts } from '../support/shapes.js';
import { bearer } from './world.js';

const secret = 'a-secret-of-32-characters-or-more';

describe('a key whose requests are limited', () => {
  const started: AppProcess[] = [];
  afterEach(async () => {
    await Promise.all(started.splice(0).map((it) => it.stop()));
  });

  it('is told how many more it may send, and when to come back', async () => {
    const [port, messages] = await servicePorts(2);
    const process = new AppProcess('cache', {
      ...{ PORT: String(port), CACHE_LISTEN: `tcp://127.0.0.1:${messages}` },
      ...{ ADMIN_KEY: secret, RATE_LIMIT: '3/hour' },
    });
    started.push(process);
    process.spawn();
    const api = new Api(`http://127.0.0.1:${port}`);
    await process.untilReady(`${api.baseUrl}/health/ready`);
    const ask = () => api.send('GET', '/cache/stats', bearer(secret));
    for (const remaining of [2, 1, 0]) {
      const { status, headers } = await ask();
      expect(status).toBe(200);
      expect(headers.get('ratelimit-policy')).toBe('"caller";q=3;w=3600');
      expect(headers.get('ratelimit')).toMatch(new RegExp(`^"caller";r=${remaining};t=(?:3600|35\\d\\d)$`));
    }
    const answer = await ask();
    refused(answer, '429 too-many-requests');
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(3_500);
    // Who is not let in at all uses nothing up, and what is open stays so.
    refused(await api.send('GET', '/cache/stats', bearer('x'.repeat(32))), '401 unauthenticated');
    expect((await api.get('/health/live')).status).toBe(200);
  });

  it('uses it up over gRPC as well with what it is not allowed, and not who is unknown', async () => {
    const database = await testDatabase();
    const [port, grpcPort, messages, ...others] = await servicePorts(5);
    const process = new AppProcess('order', {
      ...{ PORT: String(port), DATABASE_URL: database.url, ORDER_GRPC_LISTEN: `127.0.0.1:${grpcPort}` },
      ...{ ORDER_LISTEN: `tcp://127.0.0.1:${messages}`, ADMIN_KEY: secret, RATE_LIMIT: '3/hour' },
      ...{ INVENTORY_AT: `tcp://127.0.0.1:${others[0]}`, PAYMENT_AT: `tcp://127.0.0.1:${others[1]}` },
      SERVICE_SECRET: 'x'.repeat(32),
    });
    started.push(process);
    const grpc = new GrpcApi(`127.0.0.1:${grpcPort}`);
    try {
      process.spawn();
      await process.untilReady(`http://127.0.0.1:${port}/health/ready`);
      const ask = async (by: string) => {
        const metadata = { authorization: `Bearer ${by}` };
        return (await grpc.refused('GetOrder', { order_id: 'none' }, { metadata })).code;
      };
      const codes: string[] = [];
      for (let times = 0; times < 5; times += 1) codes.push(await ask('x'.repeat(32)), await ask(secret));
      expect(codes.filter((_, at) => at % 2 === 0)).toEqual(Array.from({ length: 5 }, () => 'UNAUTHENTICATED'));
      expect(codes.filter((_, at) => at % 2 === 1)).toEqual([
        ...Array.from({ length: 3 }, () => 'PERMISSION_DENIED'),
        ...Array.from({ length: 2 }, () => 'RESOURCE_EXHAUSTED'),
      ]);
      const { text } = await new Api(`http://127.0.0.1:${port}`).get('/metrics');
      for (const [code, times] of Object.entries({ unauthenticated: 5, forbidden: 3, 'too-many-requests': 2 }))
        expect(text).toMatch(
          new RegExp(`^rpc_server_call_duration_seconds_count{[^}]*error_type="${code}"[^}]*} ${times}$`, 'm'),
        );
    } finally {
      grpc.close();
      await process.stop();
      await database.stop();
    }
  });

  it('cannot be limited by what is no rate', async () => {
    const process = new AppProcess('cache', { PORT: '0', RATE_LIMIT: '0/minute' });
    started.push(process);
    process.spawn();
    expect(await process.exit).toEqual({ code: 1, signal: null });
    expect(process.log).toMatch(/RATE_LIMIT: .*must be a number of requests a second, minute or hour/);
  });
});
