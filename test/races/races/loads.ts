import type { Race } from '../race.js';
import { Source } from '#testing';
import { comesTrue } from '../stage.js';

const callersANode = 25;
/** The load takes at least this long, so that every node that would start another one has done so. */
const loadMs = 500;

export const loads: readonly Race[] = [
  {
    name: `${2 * callersANode} callers on two nodes miss at once`,
    run: async (_, stage) => {
      const { url } = await stage.redis();
      const nodes = [await stage.space(url), await stage.space(url)];
      const source = new Source('value');
      source.close();
      const calls = nodes.flatMap((node) =>
        Array.from({ length: callersANode }, () => node.getOrSet('mug', source.load, 60_000)),
      );
      await comesTrue(() => source.asked > nodes.length, loadMs);
      source.open();
      const given = await Promise.all(calls);
      if (given.some((it) => it !== 'value')) return { did: 'returned another value', holds: false };
      return { did: source.asked === 1 ? '1 load' : `${source.asked} loads`, holds: source.asked === 1 };
    },
  },
  {
    name: 'the source has nothing',
    run: async ({ nothing }, stage) => {
      const { url } = await stage.redis();
      const [here, there] = [await stage.space(url), await stage.space(url)];
      const source = new Source(nothing);
      await here.getOrSet('mug', source.load, 60_000);
      for (const node of [here, there]) await node.getOrSet('mug', source.load, 60_000);
      const isApart = (await there.knowsOfNothing('mug')) && !(await there.knowsOfNothing('jug'));
      const asked = source.asked === 1 ? 'loaded once' : `loaded ${source.asked} times`;
      const apart = isApart ? 'distinguished from a miss' : 'not distinguished from a miss';
      return { did: `${asked}, ${apart} (as ${nothing})`, holds: source.asked === 1 && isApart };
    },
  },
];
