import { expect, it } from '@jest/globals';
import { Guarded, type Guardable } from '../src/guarded.js';
import { unplaced } from '../src/sieve.js';

interface Kept extends Guardable {
  value: string;
}

const keptOf = (value: string): Kept => ({ value, epoch: 0, ...unplaced });
const room = 1_000_000;

/** Ends the fetch of `key`, one of many with a mark at the same time. */
const lands = (guarded: Guarded<Kept>, key: string, mark: number): boolean => {
  guarded.keep(key, mark, keptOf('fetched'), 0);
  return guarded.get(key)?.value === 'fetched';
};

it('keeps nothing whose key was invalidated since the mark, and what belongs to another key', () => {
  const guarded = new Guarded<Kept>(room);
  const mark = guarded.mark();
  guarded.invalidate('a');
  expect(lands(guarded, 'a', mark)).toBe(false);
  expect(lands(guarded, 'b', mark)).toBe(true);
  const later = guarded.mark();
  expect(lands(guarded, 'a', later)).toBe(true);
  expect(guarded.refusals).toBe(1);
});

it('remembers it for as long as any fetch is under way that began before', () => {
  const guarded = new Guarded<Kept>(room);
  const slow = guarded.mark();
  guarded.invalidate('a');
  for (let swift = 0; swift < 10; swift += 1) {
    guarded.mark();
    guarded.unmark();
  }
  expect(lands(guarded, 'a', slow)).toBe(false);
  guarded.unmark();
  // What has been invalidated since is no longer known.
  expect(lands(guarded, 'a', slow)).toBe(false);
  expect(lands(guarded, 'a', guarded.mark())).toBe(true);
});

it('keeps nothing where more was invalidated meanwhile than is remembered', () => {
  const guarded = new Guarded<Kept>(room);
  const mark = guarded.mark();
  for (let at = 0; at < 256; at += 1) guarded.invalidate(`other ${at}`);
  expect(lands(guarded, 'a', mark)).toBe(true);
  guarded.invalidate('one more');
  expect(lands(guarded, 'b', mark)).toBe(false);
  expect(lands(guarded, 'b', guarded.mark())).toBe(true);
});

it('keeps nothing since a mark after which invalidations may have been missed', () => {
  const guarded = new Guarded<Kept>(room);
  const mark = guarded.mark();
  guarded.suspectAll();
  expect(lands(guarded, 'a', mark)).toBe(false);
  expect(lands(guarded, 'a', guarded.mark())).toBe(true);
});
