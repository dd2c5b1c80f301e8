import { crc32 } from 'node:zlib';
import { SeededRandom, testSeed } from '#testing';

/** Jest's seeds may be negative. */
const seed = (): number => testSeed() >>> 0;

let made = 0;

/** An id that no other test of this run uses; the seed repeats it. */
export const fresh = (prefix: string): string => `${prefix}-${seed().toString(36)}-${(made += 1).toString(36)}`;

/** The same as an integer. */
export const freshInteger = (): number => 1_000_000_000_000 + seed() * 1_000 + (made += 1);

/** Random choices for one test, which depend on the seed and on the name of the test. */
export const randomOf = (test: string): SeededRandom => new SeededRandom(seed() + crc32(test));
