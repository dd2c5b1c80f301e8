import { randomBytes } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { testSeed } from '#testing';
import { dataKeys } from '../src/data-keys.js';
import { MasterKeys, open, seal } from '../src/master-keys.js';

describe('sealed content', () => {
  it('can be opened unchanged with its key and context only', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.string(), fc.nat(), (bytes, name, at) => {
        const [key, content] = [randomBytes(32), Buffer.from(bytes)];
        const sealed = seal(key, content, ['order', name]);
        expect(open(key, sealed, ['order', name]).equals(content)).toBe(true);
        expect(() => open(randomBytes(32), sealed, ['order', name])).toThrow();
        expect(() => open(key, sealed, ['order', `${name}.`])).toThrow();
        const changed = Buffer.from(sealed);
        changed[at % changed.length]! ^= 1 << (at % 8);
        expect(() => open(key, changed, ['order', name])).toThrow();
        expect(seal(key, content, ['order', name]).equals(sealed)).toBe(false);
      }),
      { seed: testSeed(), numRuns: 200 },
    );
  });

  it('wrapped by a master key can be opened while that key is configured; otherwise the error names it', () => {
    const [one, other, twin] = ['a', 'b', 'a'].map((id) => ({ id, key: randomBytes(32) }));
    const [content, context] = [Buffer.from('secret'), ['of', 'somebody']];
    const wrapped = new MasterKeys([one!, other!]).wrap(content, context);
    expect(wrapped.masterId).toBe('a');
    expect(new MasterKeys([other!, one!]).unwrap(wrapped, context).toString()).toBe('secret');
    for (const [keys, given] of [[[other!], context] as const, [[twin!], context] as const, [[one!], ['of']] as const])
      expect(() => new MasterKeys(keys).unwrap(wrapped, given)).toThrow(
        /^data-key-missing: This .*crypted with the key .*\ba\b/,
      );
  });
});

describe('DATA_KEYS', () => {
  const key = Buffer.alloc(32, 'cleave').toString('base64');

  it('are ids with keys, newest first', () => {
    expect(dataKeys.parse(`2026-11:${key}, a_b.c:${key}`).map((it) => [it.id, it.key.toString('base64')])).toEqual([
      ['2026-11', key],
      ['a_b.c', key],
    ]);
  });

  it.each(['', key, `a:${key.slice(4)}`, `a:${key}=`, `a b:${key}`, `a:${key},`, `a:${key},a:${key}`, 'a:b'])(
    'refuse %j without repeating a key in the error',
    (text) => {
      const { error } = dataKeys.safeParse(text);
      expect(error).toBeDefined();
      if (text.includes(key)) expect(error!.message).not.toContain(key);
    },
  );
});
