import { expect, it } from '@jest/globals';
import { Guarded, type Guardable } from '../src/guarded.js';
import { unplaced } from '../src/sieve.js';

interface Kept extends Guardable {
  value: string;
}

const keptOf = (value: string): Kept => ({ value, epoch: 0, ...unplaced });
const room = 1_000_000;

/** Completes a fetch of `key` that began at the mark. @returns whether its value was kept */
const lands = (guarded: Guarded<Kept>, key: string, mark: number): boolean => {
  guarded.keep(key, mark, keptOf('fetched'), 0);
  return guarded.get(key)?.value === 'fetched';
};

it('rejects a value whose key was invalidated since the mark, and keeps one of another key', () => {
  const guarded = new Guarded<Kept>(room);
  const mark = guarded.mark();
  guarded.invalidate('a');
  expect(lands(guarded, 'a', mark)).toBe(false);
  expect(lands(guarded, 'b', mark)).toBe(true);
  const later = guarded.mark();
  expect(lands(guarded, 'a', later)).toBe(true);
  expect(guarded.refusals).toBe(1);
});

it('remembers an invalidation as long as a fetch that began before is in progress', () => {
  const guarded = new Guarded<Kept>(room);
  const slow = guarded.mark();
  guarded.invalidate('a');
  for (let swift = 0; swift < 10; swift += 1) {
    guarded.mark();
    guarded.unmark();
  }
  expect(lands(guarded, 'a', slow)).toBe(false);
  guarded.unmark();
  // What was invalidated since that mark is no longer known, so nothing is kept.
  expect(lands(guarded, 'a', slow)).toBe(false);
  expect(lands(guarded, 'a', guarded.mark())).toBe(true);
});

it('rejects every value if more keys were invalidated since the mark than are remembered', () => {
  const guarded = new Guarded<Kept>(room);
  const mark = guarded.mark();
  for (let at = 0; at < 256; at += 1) guarded.invalidate(`other ${at}`);
  expect(lands(guarded, 'a', mark)).toBe(true);
  guarded.invalidate('one more');
  expect(lands(guarded, 'b', mark)).toBe(false);
  expect(lands(guarded, 'b', guarded.mark())).toBe(true);
});

it('rejects every value if invalidations may have been missed since the mark', () => {
  const guarded = new Guarded<Kept>(room);
  const mark = guarded.mark();
  guarded.suspectAll();
  expect(lands(guarded, 'a', mark)).toBe(false);
  expect(lands(guarded, 'a', guarded.mark())).toBe(true);
});
