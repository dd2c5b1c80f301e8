import { setTimeout as sleep } from 'node:timers/promises';
import type { Race } from '../race.js';
import { Source } from '#testing';
import { oldFor, seconds } from '../stage.js';

const ttl = 3_000;
const readAfterMs = 2_500;
/** The tolerance for two clocks of a machine and the duration of a call. */
const marginMs = 100;

export const timeToLive: readonly Race[] = [
  {
    name: `written with a ttl of ${seconds(ttl)}, read by another node after ${seconds(readAfterMs)}`,
    run: async (_, stage) => {
      const { url } = await stage.redis();
      const [writing, reading] = [await stage.space(url), await stage.space(url)];
      const source = new Source('new');
      const since = performance.now();
      await writing.set('mug', 'old', ttl);
      await sleep(readAfterMs - (performance.now() - since));
      const read = (): Promise<unknown> => reading.getOrSet('mug', source.load, ttl);
      const { ms, isOver } = await oldFor(read, 'old', since, 3 * ttl);
      if (ms < readAfterMs) throw new Error('it was not there any more when it was read');
      return {
        did: isOver ? `served for ${seconds(ms)}` : `served for more than ${seconds(ms)}`,
        holds: isOver && ms <= ttl + marginMs,
      };
    },
  },
];
