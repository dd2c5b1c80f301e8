import { isName } from './options.js';

/** The metadata that decides whether a value may still be served. */
export interface Head {
  /**
   * Changes with every write of the key: at most twelve letters and digits. V8 keeps a longer substring as a view of the
   * whole text, which would stay in memory for as long as the substring.
   */
  version: string;
  /** When the value stops being fresh, in milliseconds by the shared clock; infinite for no expiry. */
  freshUntil: number;
  /** Until when the value may be served stale if nothing better is available. */
  staleUntil: number;
  /** How long the load took, in milliseconds: values that are expensive to load are refreshed a little earlier. */
  loadMs: number;
  /** The versions of the namespace and of the tags before the value was loaded. */
  namespaceVersion: string;
  tags: readonly (readonly [tag: string, version: string])[];
}

export interface Entry extends Head {
  /** The serialised value; `undefined` if the source has none. */
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

/** Encodes an entry as one text: a header line, then the value unescaped, so that it is not escaped twice. */
export const encodeEntry = (it: Entry): string => {
  const { text, version, freshUntil, staleUntil, loadMs, namespaceVersion, tags } = it;
  const told = tags.length === 0 ? '' : JSON.stringify(tags);
  const head = `${version}|${endOf(freshUntil)}|${endOf(staleUntil)}|${Math.round(loadMs)}|${namespaceVersion}|${told}`;
  return text === undefined ? `${absent}${head}\n` : `${present}${head}\n${text}`;
};

/** The version of a stored value, matched as in the Redis scripts; `''` for none. */
export const versionIn = (stored: string): string => /^[+-]([^|]*)\|/.exec(stored)?.[1] ?? '';

/** @returns `undefined` for anything that is not an entry and was written by someone else; it is treated as a miss */
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
 * Whether a fresh entry is refreshed before it expires (probabilistic early expiration). The probability rises towards the
 * expiry, earlier for values that take long to load, so that one of many readers refreshes it and none has to wait.
 *
 * @param random above 0, below 1
 * @see Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015
 */
export const isDueEarly = (
  { freshUntil, loadMs }: Pick<Head, 'freshUntil' | 'loadMs'>,
  now: number,
  random: number,
): boolean => loadMs > 0 && now - loadMs * Math.log(random) >= freshUntil;
