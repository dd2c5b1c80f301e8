import type { Codec } from './codec.js';
import { assertTimeout } from './within.js';

/** Times are in milliseconds. What a call omits, or passes as `undefined`, is taken from the namespace. */
export interface KeepOptions {
  /**
   * How long a value is fresh, `Infinity` for no expiry; if neither the call nor the namespace sets it, until it is
   * evicted. Jitter shortens it a little, never prolongs it.
   */
  ttl?: number | undefined;
  /** How much longer a value may be served stale if nothing better is available. */
  grace?: number | undefined;
  /** `invalidateTags` with any of these invalidates the value. */
  tags?: readonly string[] | undefined;
}

export interface LoadOptions<Value = unknown> extends KeepOptions {
  /** How long the absence of a value in the source is cached; by default as long as a value. It has no `grace`. */
  absentTtl?: number | undefined;
  /**
   * Computes how long a loaded value is fresh, instead of `ttl`: rounded down, at least 1 ms, `Infinity` for no expiry,
   * `undefined` to use `ttl`.
   */
  ttlOf?: ((value: Value) => number | undefined) | undefined;
  /**
   * A value that stays fresh for less than this is refreshed in the background. A function receives the value, `undefined`
   * if the source had none.
   */
  refreshBefore?: number | ((value: Value | undefined) => number) | undefined;
  timeouts?:
    | {
        /** How long a caller waits for the source before it gets a stale value; not at all if left out. */
        soft?: number | undefined;
        /** How long the source may take. */
        hard?: number | undefined;
      }
    | undefined;
}

export interface NamespaceOptions<Value> extends LoadOptions<Value> {
  /** The serialisation of values; JSON if left out. */
  codec?: Codec<Value> | undefined;
  /**
   * The largest fraction by which a time to live is shortened, 0 to 1, so that values written together do not expire
   * together.
   */
  jitter?: number | undefined;
}

export const longestKeyBytes = 1_024;
export const longestTtlMs = 365 * 24 * 3_600_000;
export const longestLeaseMs = 60_000;

export const assertKey = (key: string): void => {
  if (typeof key !== 'string' || key === '')
    throw new RangeError('a cache key must be a string of at least one character');
  // A UTF-16 code unit takes at most three bytes, so most keys need not be measured.
  if (3 * key.length > longestKeyBytes && Buffer.byteLength(key) > longestKeyBytes)
    throw new RangeError(`a cache key must be at most ${longestKeyBytes} bytes of UTF-8`);
  if (!key.isWellFormed()) throw new RangeError('a cache key must not contain unpaired surrogates');
};

/** Rejects NaN, which would be no bound at all. */
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

/** Merges the options of a call over those of the namespace. */
export const over = <Options extends LoadOptions<never>>(all: Options, said: Options): Options => {
  const both: LoadOptions<never> = saidOver(all, said);
  if (all.timeouts && said.timeouts) both.timeouts = saidOver(all.timeouts, said.timeouts);
  // A `ttl` in the call takes precedence over `ttlOf` of the namespace.
  if (said.ttl !== undefined && said.ttlOf === undefined) both.ttlOf = undefined;
  return both as Options;
};

const assertTime = (name: string, ms: number | undefined, least: number): void => {
  if (ms !== undefined && !(Number.isInteger(ms) && ms >= least && ms <= longestTtlMs))
    throw new RangeError(
      `${name} is ${ms}; it must be a whole number of milliseconds from ${least} to ${longestTtlMs}`,
    );
};

/**
 * The `ttl` of a value, at least 1 ms: a computed one may be in the past, and the value must still be returned to the
 * caller.
 */
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
