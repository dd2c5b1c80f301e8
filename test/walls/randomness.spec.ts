import { glob, readFile } from 'node:fs/promises';
import { expect, it } from '@jest/globals';

/**
 * Where numbers are drawn that can be foretold from those before them, and how often it is said there: to spread out times
 * and load, which nobody gains by guessing. Whatever is given out, and may not be guessed, is drawn by `node:crypto`.
 */
const foretellable = {
  'libs/admission/src/limiter.ts': 1,
  'libs/balancing/src/balance.ts': 2,
  'libs/cache-engine/src/keyspace.ts': 1,
  'libs/cache-engine/src/loading.ts': 1,
  'libs/cache-engine/src/reconnect.ts': 1,
  'libs/periodic/src/backoff.ts': 1,
  'libs/order/src/use-cases/run-sagas.ts': 2,
  'libs/periodic/src/periodic-job.ts': 1,
  'libs/sdk/src/retries.ts': 1,
  'libs/webhooks/src/use-cases/deliver-messages.ts': 2,
};

it('nothing that could be foretold is drawn but to spread out times and load', async () => {
  const found: Record<string, number> = {};
  for await (const path of glob(['apps/*/src/**/*.ts', 'libs/*/src/**/*.ts', 'libs/*/migrations/*.ts'])) {
    // As JavaScript says it, and as SQL does.
    const times = (await readFile(path, 'utf8')).match(/Math\.random|pseudoRandom|(?<![.\w])random\(\)/g)?.length ?? 0;
    if (times > 0) found[path.replaceAll('\\', '/')] = times;
  }
  expect(found).toEqual(foretellable);
});
