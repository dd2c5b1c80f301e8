import { afterEach, describe, expect, it } from '@jest/globals';
import { createClient } from '@redis/client';
import { eventually, redisOrSkip, startRedis, testDatabase } from '#testing';
import { Api, refused } from '../support/api.js';
import { AppProcess } from '../support/app-process.js';
import { fresh } from '../support/fresh.js';
import { GrpcApi } from '../support/grpc.js';
import { refusedStart } from '../support/refused-start.js';
import { servicePorts } from '../support/shapes.js';
import { Issuer, audience } from './issuer.js';
import { bearer } from './world.js';

const secret = 'a-secret-of-32-characters-or-more';
const itWithRedis = await redisOrSkip(it);

describe('a rate limit', () => {
  const started: AppProcess[] = [];
  afterEach(async () => {
    await Promise.all(started.splice(0).map((it) => it.stop()));
  });

  it('tells the key how many requests remain and when to retry', async () => {
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
    // Unauthenticated requests do not count, and open operations are not limited.
    refused(await api.send('GET', '/cache/stats', bearer('x'.repeat(32))), '401 unauthenticated');
    expect((await api.get('/health/live')).status).toBe(200);
  });

  it('counts gRPC calls refused with PERMISSION_DENIED, but not unauthenticated ones', async () => {
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

  itWithRedis('is shared by two processes that count in Redis', async () => {
    const [redis, issuer] = [await startRedis(), await Issuer.start()];
    const counts = createClient({ url: redis.url });
    try {
      await counts.connect();
      const ports = await servicePorts(4);
      const apis = [0, 1].map((at) => {
        const it = new AppProcess('cache', {
          ...{ PORT: String(ports[at]), CACHE_LISTEN: `tcp://127.0.0.1:${ports[at + 2]}` },
          ...{ OIDC_ISSUER: issuer.url, OIDC_AUDIENCE: audience },
          ...{ RATE_LIMIT: '20/hour', RATE_LIMIT_REDIS_URL: redis.url },
        });
        started.push(it);
        it.spawn();
        return new Api(`http://127.0.0.1:${ports[at]}`);
      });
      await Promise.all(apis.map((it, at) => started[at]!.untilReady(`${it.baseUrl}/health/ready`)));
      const tokenOf = (sub: string) => issuer.token({ tenant: 'default', scope: 'cache:read', sub });
      const ask = async (api: Api, token: string) => (await api.send('GET', '/cache?key=none', bearer(token))).status;
      // Each process counts alone until it is connected.
      for (const api of apis)
        await eventually(async () => {
          const somebody = fresh('somebody');
          await ask(api, await tokenOf(somebody));
          expect(await counts.keys(`*${somebody}*`)).toHaveLength(1);
        });
      // A process also counts alone if Redis does not answer in time, as on a busy machine; each attempt uses a new
      // caller.
      await eventually(async () => {
        const token = await tokenOf(fresh('till'));
        const statuses = await Promise.all(Array.from({ length: 40 }, (_, at) => ask(apis[at % 2]!, token)));
        const times = (status: number): number => statuses.filter((it) => it === status).length;
        expect([times(404), times(429)]).toEqual([20, 20]);
        expect(await Promise.all(apis.map((it) => ask(it, token)))).toEqual([429, 429]);
      });
    } finally {
      await Promise.all(started.splice(0).map((it) => it.stop()));
      counts.destroy();
      await Promise.all([issuer.stop(), redis.stop()]);
    }
  });

  it('fails the start if it is not a valid rate', async () => {
    const { code, output } = await refusedStart('dist/apps/cache/src/main.js', { PORT: '0', RATE_LIMIT: '0/minute' });
    expect([code, output]).toEqual([1, output]);
    expect(output).toMatch(/RATE_LIMIT: .*must be a number of requests a second, minute or hour/);
  });
});
