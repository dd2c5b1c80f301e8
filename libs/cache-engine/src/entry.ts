import { isName } from './options.js';

/** What decides whether a value may still be given out. */
export interface Head {
  /**
   * Changes with every write of the key: letters and digits, at most twelve. V8 keeps a longer part of a text as a view of
   * the whole, which would lie in memory for as long as the part.
   */
  version: string;
  /** Until when it is as good as new, in milliseconds of the shared clock; infinite for no end. */
  freshUntil: number;
  /** Until when it may stand in where nothing better is to be had. */
  staleUntil: number;
  /** How long the source took, in milliseconds: what is dear is asked for again a little earlier. */
  loadMs: number;
  /** The version that the namespace had before the value was loaded, and those of its tags. */
  namespaceVersion: string;
  tags: readonly (readonly [tag: string, version: string])[];
}

export interface Entry extends Head {
  /** The value as text; `undefined` says that the source was asked and has nothing. */
  text: string | undefined;
}

const absent = '-';
const present = '+';
export const noTags: Head['tags'] = [];

const endOf = (at: number): string => (Number.isFinite(at) ? String(Math.ceil(at)) : '');

const isVersionOfTag = (it: unknown): it is Head['tags'][number] =>
  Array.isArray(it) && it.length === 2 && isName(it[0]) && typeof it[1] === 'string';

const tagsIn = (told: string): Head['tags'] | undefined => {
  if (told === '') return noTags;
  try {
    const tags = JSON.parse(told) as unknown;
    return Array.isArray(tags) && tags.every(isVersionOfTag) ? tags : undefined;
  } catch {
    return undefined;
  }
};

/** As one text: a line of what is about the value, then the value as it is, so that it is not escaped twice. */
export const encodeEntry = (it: Entry): string => {
  const { text, version, freshUntil, staleUntil, loadMs, namespaceVersion, tags } = it;
  const told = tags.length === 0 ? '' : JSON.stringify(tags);
  const head = `${version}|${endOf(freshUntil)}|${endOf(staleUntil)}|${Math.round(loadMs)}|${namespaceVersion}|${told}`;
  return text === undefined ? `${absent}${head}\n` : `${present}${head}\n${text}`;
};

/** The version of what is stored, as the scripts in Redis see it; `''` for none. */
export const versionIn = (stored: string): string => /^[+-]([^|]*)\|/.exec(stored)?.[1] ?? '';

/** @returns `undefined` for what is no entry: somebody else wrote it there, and it is treated as nothing */
export const decodeEntry = (stored: string): Entry | undefined => {
  const mark = stored[0];
  const endOfHead = stored.indexOf('\n');
  if (endOfHead < 0 || (mark !== absent && mark !== present)) return undefined;
  let at = 1;
  const field = (): string => {
    const end = stored.indexOf('|', at);
    const text = stored.slice(at, end);
    at = end + 1;
    return text;
  };
  const moment = (text: string): number => (text === '' ? Number.POSITIVE_INFINITY : Number(text));
  const version = field();
  const freshUntil = moment(field());
  const staleUntil = moment(field());
  const loadMs = Number(field());
  const namespaceVersion = field();
  if (at > endOfHead || Number.isNaN(freshUntil + staleUntil + loadMs)) return undefined;
  const tags = tagsIn(stored.slice(at, endOfHead));
  if (!tags) return undefined;
  const text = mark === absent ? undefined : stored.slice(endOfHead + 1);
  return { text, version, freshUntil, staleUntil, loadMs, namespaceVersion, tags };
};

/**
 * Whether a fresh entry is asked for again before its end: ever more likely towards it, and earlier for what takes long
 * to load, so that of many who read it one goes ahead and nobody waits.
 *
 * @param random above 0, below 1
 * @see Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015
 */
export const isDueEarly = (
  { freshUntil, loadMs }: Pick<Head, 'freshUntil' | 'loadMs'>,
  now: number,
  random: number,
): boolean => loadMs > 0 && now - loadMs * Math.log(random) >= freshUntil;
