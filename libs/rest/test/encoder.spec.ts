import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { z } from 'zod';
import * as contracts from '#contracts';
import { encoderOf } from '../src/encoder.js';

const { moment } = contracts;

/** Contains every kind of type that replies use. */
const schema = z.object({
  id: z.uuid(),
  name: z.string().max(5),
  count: z.int().min(0).max(9),
  at: moment,
  changed_at: moment.nullable(),
  until: moment.optional(),
  kind: z.enum(['a', 'b']),
  tags: z.array(z.string()).max(2),
  moments: z.array(moment),
  by_name: z.record(z.string(), moment),
  anything: z.unknown(),
  outcome: z.discriminatedUnion('type', [
    z.object({ type: z.literal('done'), at: moment }),
    z.strictObject({ type: z.literal('failed'), why: z.string() }),
  ]),
  either: z.union([z.string(), z.object({ at: moment })]),
  more: z.looseObject({ one: z.number() }),
});

const date = fc.date({ min: new Date(0), max: new Date('9999-12-31'), noInvalidDate: true });
const fitting = fc.record({
  id: fc.uuid(),
  name: fc.string({ maxLength: 5, unit: 'grapheme-ascii' }),
  count: fc.integer({ min: 0, max: 9 }),
  at: date,
  changed_at: fc.option(date),
  kind: fc.constantFrom('a', 'b'),
  tags: fc.array(fc.string(), { maxLength: 2 }),
  moments: fc.array(date, { maxLength: 3 }),
  by_name: fc.dictionary(fc.string(), date, { maxKeys: 3 }),
  anything: fc.jsonValue(),
  outcome: fc.oneof(
    fc.record({ type: fc.constant('done'), at: date, unknown: fc.string() }),
    fc.record({ type: fc.constant('failed'), why: fc.string() }),
  ),
  either: fc.oneof(fc.string(), fc.record({ at: date })),
  more: fc.record({ one: fc.integer(), two: fc.string() }),
  unknown: fc.string(),
});
const optional = fc.record({ until: fc.option(date, { nil: undefined }) }, { requiredKeys: [] });
/** A valid value in which one member is replaced by anything, or by nothing. */
const wrong = fc
  .tuple(fitting, fc.constantFrom(...Object.keys(schema.shape)), fc.oneof(fc.anything(), fc.constant(undefined)))
  .map(([value, key, other]) => ({ ...value, [key]: other }));

const outcomeOf = ({ success, data, error }: z.ZodSafeParseResult<unknown>) => ({
  success,
  data,
  issues: error?.issues.map(({ path, code }) => [path, code]),
});

describe('an encoder', () => {
  it('has the same result as zod for any value', () => {
    const encode = encoderOf(schema);
    const isTheSame = (value: unknown): void =>
      expect(outcomeOf(encode(value))).toEqual(outcomeOf(z.safeEncode(schema, value as never)));
    fc.assert(
      fc.property(fitting, optional, (value, more) => {
        expect(encode({ ...value, ...more }).success).toBe(true);
        isTheSame({ ...value, ...more });
      }),
    );
    fc.assert(fc.property(wrong, isTheSame));
    fc.assert(fc.property(fc.anything(), isTheSame));
  });

  it('omits members that the schema does not have, and does not change the value', () => {
    const at = new Date('2026-11-27T10:00:00.000Z');
    const value = { at, secret: 'of nobody' };
    expect(encoderOf(z.object({ at: moment }))(value)).toEqual({ success: true, data: { at: at.toISOString() } });
    expect(value).toEqual({ at, secret: 'of nobody' });
  });

  it('encodes custom codecs and refinements like zod', () => {
    const text = z.codec(z.string(), z.number(), { decode: Number, encode: String });
    const nested = z.object({ inner: z.lazy(() => z.object({ text })) });
    expect(encoderOf(nested)({ inner: { text: 7 } }).data).toEqual({ inner: { text: '7' } });
    const outer = z.codec(z.object({ text }), z.object({ n: z.number() }), {
      decode: (value) => ({ n: value.text }),
      encode: ({ n }) => ({ text: n }),
    });
    expect(encoderOf(outer)({ n: 7 }).data).toEqual({ text: '7' });
    const span = z
      .object({ since: moment, until: moment })
      .refine(({ since, until }) => since.getTime() < until.getTime());
    const [since, until] = [new Date(1_000), new Date(2_000)];
    expect(encoderOf(span)({ since, until }).success).toBe(true);
    expect(encoderOf(span)({ since: until, until: since }).success).toBe(false);
  });
});
