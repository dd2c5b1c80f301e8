import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { z } from 'zod';
import { CleaveError } from '#contracts';
import { Cursors, pageLimit } from '#rest';

const cursors = new Cursors('0123456789abcdef');
const codeOf = (action: () => unknown): unknown => {
  try {
    return action();
  } catch (error) {
    return (error as CleaveError).code;
  }
};

describe('pageLimit', () => {
  it.each([
    [undefined, 50],
    ['1', 1],
    ['007', 7],
    ['200', 200],
    ['201', 200],
    ['9'.repeat(400), 200],
  ])('reads %s as %s', (text, limit) => expect(pageLimit(text)).toBe(limit));

  it.each(['', '0', '00', '-1', '+1', '1.5', '1e2', ' 1', '0x10', 'ten', '１'])('refuses %j', (text) => {
    expect(codeOf(() => pageLimit(text))).toBe('invalid-request');
  });
});

describe('a cursor', () => {
  it('returns the payload that was written', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (payload) => {
        const cursor = cursors.write({ payload });
        expect(cursor).toMatch(/^[\w-]+$/);
        expect(cursors.read(cursor, z.unknown())).toEqual(JSON.parse(JSON.stringify({ payload })));
      }),
    );
  });

  it('that was changed or truncated anywhere is refused', () => {
    const cursor = cursors.write({ after: 'c-42' });
    for (let at = 0; at < cursor.length; at += 1) {
      for (const letter of ['A', '_', '=', '+', ' ', '\u0141']) {
        if (letter === cursor[at]) continue;
        const changed = cursor.slice(0, at) + letter + cursor.slice(at + 1);
        expect(codeOf(() => cursors.read(changed, z.unknown()))).toBe('invalid-cursor');
      }
      expect(codeOf(() => cursors.read(cursor.slice(0, at), z.unknown()))).toBe('invalid-cursor');
    }
  });

  it('with another secret, of another kind or made up is refused', () => {
    const foreign = new Cursors('another secret of ours').write({ after: 1 });
    const otherKind = cursors.write({ before: 1 });
    for (const cursor of [foreign, otherKind, '', 'A', 'nonsense', 'é', `${cursors.write({ after: 1 })}==`]) {
      expect(codeOf(() => cursors.read(cursor, z.object({ after: z.int() })))).toBe('invalid-cursor');
    }
  });

  it('cannot be signed with a short secret', () => {
    expect(() => new Cursors('short')).toThrow(RangeError);
  });
});
