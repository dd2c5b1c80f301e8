import { glob, readFile } from 'node:fs/promises';
import { expect, it } from '@jest/globals';

/**
 * Where predictable random numbers are used, and how often: to spread times and load, where guessing them gains
 * nothing. Values that must not be guessed come from `node:crypto`.
 */
const foretellable = {
  'libs/admission/src/limiter.ts': 1,
  'libs/balancing/src/balance.ts': 2,
  'libs/cache-engine/src/keyspace.ts': 1,
  'libs/cache-engine/src/loading.ts': 1,
  'libs/cache-engine/src/reconnect.ts': 1,
  'libs/periodic/src/backoff.ts': 1,
  'libs/order/src/use-cases/run-sagas.ts': 4,
  'libs/periodic/src/periodic-job.ts': 1,
  'libs/sdk/src/retries.ts': 1,
  'libs/webhooks/src/use-cases/deliver-messages.ts': 2,
};

it('predictable random numbers are used only to spread times and load', async () => {
  const found: Record<string, number> = {};
  for await (const path of glob(['apps/*/src/**/*.ts', 'libs/*/src/**/*.ts', 'libs/*/migrations/*.ts'])) {
    // In JavaScript and in SQL.
    const times = (await readFile(path, 'utf8')).match(/Math\.random|pseudoRandom|(?<![.\w])random\(\)/g)?.length ?? 0;
    if (times > 0) found[path.replaceAll('\\', '/')] = times;
  }
  expect(found).toEqual(foretellable);
});
