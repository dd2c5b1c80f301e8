import { afterAll, describe, it } from '@jest/globals';
import { testSeed } from '#testing';
import { crashPointsOf } from './crash-points.js';
import { CrashTest, type Aftermath } from './crash.js';
import { printTable } from './table.js';

describe.each(['one database', 'two databases', 'split'] as const)('a process killed in the shape %s', (shape) => {
  const test = new CrashTest(shape);
  const table: Aftermath[] = [];

  afterAll(async () => {
    printTable(`crashes with TEST_SEED=${testSeed()}`, table);
    await test.stop();
  });

  it.each(crashPointsOf(shape))('$moment the commit of $step loses nothing and doubles nothing', async (point) => {
    table.push(await test.crashAt(point));
  });
});
