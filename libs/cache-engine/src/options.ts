import type { Codec } from './codec.js';
import { assertTimeout } from './within.js';

/** Times are milliseconds. What a call leaves out, or gives as `undefined`, is as the namespace says. */
export interface KeepOptions {
  /**
   * How long a value is as good as new, `Infinity` for no end; where nobody says so, until it is evicted. Shortened a little
   * by chance, never longer.
   */
  ttl?: number | undefined;
  /** How much longer it may stand in where nothing better is to be had. */
  grace?: number | undefined;
  /** `invalidateTags` with one of them makes the value old. */
  tags?: readonly string[] | undefined;
}

export interface LoadOptions<Value = unknown> extends KeepOptions {
  /** How long it is kept that the source has nothing; as long as a value when left out. It has no `grace`. */
  absentTtl?: number | undefined;
  /**
   * Says of a value that was loaded how long it is as good as new, in place of the `ttl` beside it: rounded down, 1 ms where it is less,
   * `Infinity` for no end, `undefined` for what `ttl` says.
   */
  ttlOf?: ((value: Value) => number | undefined) | undefined;
  /**
   * A value that is as good as new for less than this is asked for again already, and nobody waits for that. A function is
   * told the value, `undefined` where the source had nothing.
   */
  refreshBefore?: number | ((value: Value | undefined) => number) | undefined;
  timeouts?:
    | {
        /** How long somebody waits for the source who could have what is over its time; not at all when left out. */
        soft?: number | undefined;
        /** How long the source may take. */
        hard?: number | undefined;
      }
    | undefined;
}

export interface NamespaceOptions<Value> extends LoadOptions<Value> {
  /** How values are written; JSON when left out. */
  codec?: Codec<Value> | undefined;
  /** By how much a time to live is shortened at the most, so that what came together does not end together: 0 to 1. */
  jitter?: number | undefined;
}

export const longestKeyBytes = 1_024;
export const longestTtlMs = 365 * 24 * 3_600_000;

export const assertKey = (key: string): void => {
  if (typeof key !== 'string' || key === '')
    throw new RangeError('a cache key must be a string of at least one character');
  // Three bytes a character at most, so that most keys need not be measured.
  if (3 * key.length > longestKeyBytes && Buffer.byteLength(key) > longestKeyBytes)
    throw new RangeError(`a cache key must be at most ${longestKeyBytes} bytes of UTF-8`);
  if (!key.isWellFormed()) throw new RangeError('a cache key must not contain unpaired surrogates');
};

/** Not a number would be no bound at all. */
export const assertBytes = (name: string, bytes: number): void => {
  if (typeof bytes !== 'number' || !(bytes >= 0))
    throw new RangeError(`${name} is ${bytes}; it must be a number of bytes, 0 or more`);
};

export const isName = (name: unknown): name is string =>
  typeof name === 'string' && name !== '' && Buffer.byteLength(name) <= longestKeyBytes && name.isWellFormed();

export const assertName = (what: string, name: string): void => {
  if (!isName(name))
    throw new RangeError(
      `a ${what} must be a string of 1 to ${longestKeyBytes} bytes of UTF-8 without unpaired surrogates`,
    );
};

const saidOver = <Options extends object>(all: Options, said: Options): Options => {
  const both = { ...all };
  for (const name of Object.keys(said) as (keyof Options)[]) if (said[name] !== undefined) both[name] = said[name];
  return both;
};

/** What a call says, and what the namespace says of the rest. */
export const over = <Options extends LoadOptions<never>>(all: Options, said: Options): Options => {
  const both: LoadOptions<never> = saidOver(all, said);
  if (all.timeouts && said.timeouts) both.timeouts = saidOver(all.timeouts, said.timeouts);
  // The time that a call says is for its value, whatever the namespace would say of it.
  if (said.ttl !== undefined && said.ttlOf === undefined) both.ttlOf = undefined;
  return both as Options;
};

const assertTime = (name: string, ms: number | undefined, least: number): void => {
  if (ms !== undefined && !(Number.isInteger(ms) && ms >= least && ms <= longestTtlMs))
    throw new RangeError(
      `${name} is ${ms}; it must be a whole number of milliseconds from ${least} to ${longestTtlMs}`,
    );
};

/** A value may be over already, and does not get lost by that. */
export const ttlBy = ({ ttlOf, ttl }: LoadOptions<never>, value: unknown): number | undefined => {
  const told = value === undefined ? undefined : ttlOf?.(value as never);
  if (told === undefined) return ttl;
  return told === Number.POSITIVE_INFINITY ? told : Math.min(Math.max(1, Math.floor(told)), longestTtlMs);
};

export const assertTimes = ({ ttl, grace, absentTtl, timeouts }: LoadOptions<never>): void => {
  if (ttl !== Number.POSITIVE_INFINITY) assertTime('ttl', ttl, 1);
  assertTime('grace', grace, 0);
  assertTime('absentTtl', absentTtl, 1);
  assertTimeout('timeouts.soft', timeouts?.soft);
  assertTimeout('timeouts.hard', timeouts?.hard);
};
