import { describe, expect, it } from '@jest/globals';
import { redisOrSkip } from '#testing';
import { contestants } from './contestants.js';
import { races, runRace } from './races.js';

const describeRedis = await redisOrSkip(describe);

describeRedis('our cache', () => {
  const [ours] = contestants;

  it.each(races)('passes the race: $name', async (race) => {
    expect(await runRace(race, ours!)).toMatchObject({ holds: true });
  });
});
