import type { Race } from '../race.js';
import { comesTrue } from '../stage.js';

const separators = [':', '::', '/', '.', '}'];
/** Namespaces to clear, and others that would be affected if the names were patterns or prefixes. */
const cleared: readonly (readonly [name: string, other: string])[] = [
  ['*', 'mugs'],
  ['mu?s', 'mugs'],
  ['[mn]ugs', 'mugs'],
  ['mu', 'mugs'],
  ['mugs', 'mugs:red'],
];

const clusterKeys = 300;

export const namespaces: readonly Race[] = [
  {
    name: 'key "b:c" of namespace "a", key "c" of "a:b"',
    run: async (_, stage) => {
      const { url } = await stage.redis();
      const [writing, reading] = [await stage.node(url), await stage.node(url)];
      const met: string[] = [];
      for (const it of separators) {
        await writing.space('a').set(`b${it}c`, 'of a');
        if ((await reading.space(`a${it}b`).get('c')) !== undefined) met.push(`"${it}"`);
      }
      return met.length === 0
        ? { did: 'kept apart', holds: true }
        : { did: `one reads the other with ${met.join(', ')}`, holds: false };
    },
  },
  {
    name: 'clearing a namespace whose name is a pattern, or a prefix of another',
    run: async (_, stage) => {
      const { url } = await stage.redis();
      const lost: string[] = [];
      for (const [name, other] of cleared) {
        const [clearing, reading] = [await stage.node(url), await stage.node(url)];
        const space = clearing.space(name);
        await space.set('red', 1);
        await clearing.space(other).set('red', 2);
        await space.clear();
        if (!(await comesTrue(async () => (await reading.space(name).get('red')) === undefined, 1_000)))
          lost.push(`"${name}" is not cleared`);
        if ((await reading.space(other).get('red')) !== 2) lost.push(`"${name}" also clears "${other}"`);
      }
      return lost.length === 0
        ? { did: 'kept apart', holds: true }
        : { did: lost.join(', ').replaceAll('*', String.raw`\*`), holds: false };
    },
  },
  {
    name: `clearing a namespace of ${clusterKeys} keys on three masters`,
    run: async (_, stage) => {
      const cluster = await stage.cluster();
      // Connections to two of the masters are only opened on demand.
      const patient = { patienceMs: 20_000 };
      const node = await stage.node(cluster.url, patient);
      const [space, other] = [node.space('cleared'), node.space('other')];
      const keys = Array.from({ length: clusterKeys }, (_, at) => `key ${at}`);
      const isIn = async (): Promise<boolean> => {
        await Promise.all(keys.map((key) => space.set(key, key)));
        return (await cluster.keys('*cleared*key*')).length === clusterKeys;
      };
      if (!(await comesTrue(isIn, 20_000))) throw new Error('they were never written');
      await other.set('key', 'other');
      let failure = '';
      await space.clear().catch((error: unknown) => (failure = `, failed: ${String(error)}`));
      const reading = (await stage.node(cluster.url, patient)).space('cleared');
      const givenOut = async (): Promise<number> =>
        (await Promise.all(keys.map((key) => reading.get(key)))).filter((it) => it !== undefined).length;
      const given = await givenOut();
      const left = async (): Promise<number> => (await cluster.keys('*cleared*key*')).length;
      await comesTrue(async () => (await left()) === 0, 3_000);
      const isOtherThere = (await other.get('key')) === 'other';
      return {
        did: `${given} served, ${await left()} left${isOtherThere ? '' : ', another namespace lost'}${failure}`,
        holds: given === 0 && (await left()) === 0 && isOtherThere && failure === '',
      };
    },
  },
];
