import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { z } from 'zod';
import { testSeed } from '#testing';
import {
  CleaveError,
  cacheKey,
  callerId,
  currency,
  errorCodes,
  givenCurrency,
  isErrorCode,
  limits,
  metadata,
  moment,
  nestingOf,
  placeOrderRequest,
  returnOrderRequest,
  text,
  uuid,
} from '../src/index.js';

const accepts = (schema: { safeParse(value: unknown): { success: boolean } }, value: unknown): boolean =>
  schema.safeParse(value).success;

const unstorable = ['\0', 'a\0b', '\ud800', 'x\udc00', '\udc00\ud800'];

describe('a caller’s id', () => {
  it('is a string of 1 to 128 characters, unchanged, or an integer, as its decimal string', () => {
    for (const id of ['a', ' A ', '🦊', 'x'.repeat(128), '__proto__', '\u0001']) expect(callerId.parse(id)).toBe(id);
    for (const [number, id] of [
      [0, '0'],
      [-0, '0'],
      [-12, '-12'],
      [Number.MAX_SAFE_INTEGER, '9007199254740991'],
    ] as const)
      expect(callerId.parse(number)).toBe(id);
    for (const id of ['', 'x'.repeat(129), 1.5, 2 ** 53, Number.NaN, null, true, [], {}, ...unstorable])
      expect(accepts(callerId, id)).toBe(false);
  });
});

it('text accepts what Postgres can store and refuses the rest', () => {
  for (const value of unstorable) expect(accepts(text(10), value)).toBe(false);
  for (const value of ['', '🦊🦊', '\u0001', '\\u0000']) expect(accepts(text(10), value)).toBe(true);
});

describe('metadata', () => {
  it('refuses what jsonb cannot store at any depth, in keys and values', () => {
    for (const bad of unstorable) {
      expect(accepts(metadata, { a: [{ b: bad }] })).toBe(false);
      expect(accepts(metadata, { a: { [bad]: 1 } })).toBe(false);
    }
  });

  it('accepts text that only looks like such escapes, and returns it unchanged', () => {
    // The server refuses `__proto__` before any schema sees it.
    const key = fc.string().filter((text) => text !== '__proto__');
    fc.assert(
      fc.property(fc.dictionary(key, fc.jsonValue()), fc.nat({ max: 5 }), (value, backslashes) => {
        const lookalike = `${'\\'.repeat(backslashes)}u0000 ${'\\'.repeat(backslashes)}ud800`;
        const given = { ...value, [lookalike]: lookalike };
        // JSON has no -0.
        const arrived: unknown = JSON.parse(JSON.stringify(given));
        expect(metadata.parse(arrived)).toEqual(JSON.parse(JSON.stringify(given)));
      }),
      { seed: testSeed() },
    );
  });

  it('is limited in bytes, not in characters', () => {
    const room = limits.metadataBytes - '{"k":""}'.length;
    expect(accepts(metadata, { k: 'x'.repeat(room) })).toBe(true);
    expect(accepts(metadata, { k: 'x'.repeat(room + 1) })).toBe(false);
    expect(accepts(metadata, { k: 'é'.repeat(room / 2 + 1) })).toBe(false);
    for (const other of [null, [], 'text', 1]) expect(accepts(metadata, other)).toBe(false);
  });
});

it('a cache key is limited in bytes and must be well-formed', () => {
  expect(accepts(cacheKey, 'é'.repeat(limits.cacheKeyBytes / 2))).toBe(true);
  expect(accepts(cacheKey, 'a\0b')).toBe(true);
  for (const key of ['', 'é'.repeat(limits.cacheKeyBytes / 2 + 1), 'x\ud800'])
    expect(accepts(cacheKey, key)).toBe(false);
});

it('a moment is UTC text with milliseconds on the wire and a Date in the program', () => {
  const date = new Date('2026-11-05T06:07:08.009Z');
  expect(moment.encode(date)).toBe('2026-11-05T06:07:08.009Z');
  expect(moment.decode('2026-11-05T06:07:08.009Z')).toEqual(date);
  for (const wire of ['2026-11-05', '2026-11-05T06:07:08+01:00', 'now']) {
    expect(() => moment.decode(wire)).toThrow();
  }
});

it('a currency must be in use when it is given, and only well-formed when it is stored', () => {
  for (const code of ['GBP', 'JPY', 'USD'])
    expect([accepts(givenCurrency, code), accepts(currency, code)]).toEqual([true, true]);
  expect([accepts(givenCurrency, 'ZZZ'), accepts(currency, 'ZZZ')]).toEqual([false, true]);
  // One fault each, because the caller has one thing to correct.
  for (const other of ['gbp', 'GB', '', 826, null])
    expect(givenCurrency.safeParse(other).error?.issues).toHaveLength(1);
});

it('nesting is counted without recursion', () => {
  let deep: unknown = 1;
  for (let depth = 0; depth < 200_000; depth += 1) deep = depth % 2 === 0 ? [deep] : { deep };
  expect(nestingOf(deep)).toBe(200_000);
  expect(nestingOf(Array.from({ length: 300_000 }, () => []))).toBe(2);
  expect([nestingOf(null), nestingOf([]), nestingOf({ a: [1, { b: 2 }] })]).toEqual([0, 1, 3]);
});

describe('an order', () => {
  const line = { product_id: 'a', quantity: 1 };
  const faultsOf = (request: unknown): string[] => {
    const parsed = placeOrderRequest.safeParse(request);
    return parsed.success ? [] : parsed.error.issues.map((it) => it.path.join('.'));
  };

  it('has two forms, of which exactly one must be used', () => {
    expect(placeOrderRequest.parse({ customer_id: 7, product_id: 8, quantity: 1 })).toEqual({
      ...{ customer_id: '7', product_id: '8', quantity: 1 },
    });
    expect(faultsOf({ customer_id: 'c', lines: [line] })).toEqual([]);
    expect(faultsOf({ customer_id: 'c', lines: [line], ...line })).not.toEqual([]);
    expect(faultsOf({ customer_id: 'c' })).not.toEqual([]);
  });

  it('has limits for lines, quantities, prices and adjustments', () => {
    const withLines = (lines: unknown) => faultsOf({ customer_id: 'c', lines });
    expect(withLines(Array.from({ length: limits.lines }, () => line))).toEqual([]);
    expect(withLines(Array.from({ length: limits.lines + 1 }, () => line))).not.toEqual([]);
    expect(withLines([])).not.toEqual([]);
    for (const quantity of [0, -1, 1.5, limits.quantity + 1, '1', null])
      expect(withLines([{ ...line, quantity }])).not.toEqual([]);
    for (const unit_price_minor of [-1, 0.5, limits.unitPriceMinor + 1])
      expect(withLines([{ ...line, unit_price_minor }])).not.toEqual([]);
    const adjusted = (kind: string, amount_minor: number) =>
      faultsOf({ customer_id: 'c', ...line, adjustments: [{ kind, label: 'l', amount_minor }] });
    expect([adjusted('discount', -5), adjusted('discount', 5), adjusted('tax', 0)]).toEqual([[], [], []]);
    expect([adjusted('tax', -5), adjusted('gift', 5), adjusted('tax', 2 ** 53)]).not.toContainEqual([]);
  });

  it('can be returned with a reason and lines', () => {
    const back = { lines: [{ ...line, line: 1, amount_minor: 0 }], restock: false, reason: 'r' };
    expect(accepts(returnOrderRequest, back)).toBe(true);
    for (const wrong of [
      { ...back, reason: '' },
      { ...back, lines: [] },
      { ...back, restock: 'no' },
      { ...back, more: 1 },
    ])
      expect(accepts(returnOrderRequest, wrong)).toBe(false);
  });
});

it('every error code has a title and a status from 400, which its error gets', () => {
  for (const [code, { status, title }] of Object.entries(errorCodes)) {
    expect(isErrorCode(code)).toBe(true);
    expect(title).not.toBe('');
    expect(new CleaveError(code as keyof typeof errorCodes, 'why').status).toBe(status);
    expect(status).toBeGreaterThanOrEqual(400);
  }
  for (const other of ['toString', '__proto__', '', undefined, 404]) expect(isErrorCode(other)).toBe(false);
});

describe('a UUID', () => {
  const usual = '0190f4c8-1a2b-7abc-8def-0123456789ab';
  const faultsOf = (schema: z.ZodType, value: unknown) =>
    schema.safeParse(value).error?.issues.map(({ code, path, message }) => ({ code, path, message }));

  it.each([
    ['parsed', (schema: z.ZodType) => schema],
    ['compiled', (schema: z.ZodType) => z.compile(schema)],
  ])('is accepted or refused as by zod when %s, with the same fault', (_, prepared) => {
    const [ours, theirs] = [prepared(uuid), prepared(z.uuid())];
    const same = (value: unknown): void =>
      expect([value, faultsOf(ours, value)]).toEqual([value, faultsOf(theirs, value)]);
    const character = fc.constantFrom(...Array.from('0189afgABFG-–°０ \n\0\u0130\uff41'), '');
    // Each position with each of these characters, and several at once.
    const changes = fc.array(fc.tuple(fc.nat({ max: 36 }), character), { minLength: 1, maxLength: 3 });
    fc.assert(
      fc.property(fc.oneof(fc.uuid(), fc.constant(usual)), changes, fc.boolean(), (text, changed, isUpper) => {
        same(isUpper ? text.toUpperCase() : text);
        const characters = Array.from(text);
        for (const [at, other] of changed) characters[at] = other;
        same(characters.join(''));
      }),
      { seed: testSeed(), numRuns: 2_000 },
    );
    for (const digit of '0f') for (const all of [digit, digit.toUpperCase()]) same(usual.replaceAll(/[0-9a-f]/g, all));
    for (const [at, before] of Array.from(usual).entries())
      for (const other of '09afAFgG-\ud800\u0130')
        same(`${usual.slice(0, at)}${other}${usual.slice(at + before.length)}`);
    for (const other of [
      '',
      ` ${usual}`,
      `${usual}\n`,
      `{${usual}}`,
      usual.replaceAll('-', ''),
      1,
      null,
      undefined,
      [usual],
    ])
      same(other);
  });

  it('has the JSON Schema of any UUID', () => {
    expect(z.toJSONSchema(uuid)).toMatchObject({ type: 'string', format: 'uuid' });
  });
});
