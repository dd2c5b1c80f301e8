import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import pg from 'pg';
import { testDatabase, type TestDatabase } from '#testing';
import { arrayOf } from '../src/index.js';

let database: TestDatabase;
let client: pg.Client;

beforeAll(async () => {
  database = await testDatabase();
  client = new pg.Client(database.url);
  await client.connect();
});

afterAll(async () => {
  await client?.end();
  await database?.stop();
});

/** The elements as Postgres reads them, as text. */
const readBack = async (type: string, array: Buffer): Promise<(string | null)[]> => {
  const { rows } = await client.query(`SELECT $1::${type}[]::text[] AS elements`, [array]);
  return (rows as { elements: (string | null)[] }[])[0]!.elements;
};

const anyText = fc.string({ unit: 'grapheme' }).map((it) => it.replaceAll('\0', ''));
const integer = (bits: number) =>
  fc
    .oneof(fc.maxSafeInteger(), fc.constantFrom(0, -1, 2 ** 31, -(2 ** 32), 2 ** 32 - 1))
    .filter((it) => Math.abs(it) < 2 ** (bits - 1));
const orNull = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(of);

describe('an array parameter', () => {
  const cases: [string, fc.Arbitrary<unknown>, (values: never) => Buffer, (value: never) => string][] = [
    ['uuid', fc.uuid(), arrayOf.uuid, (it: string) => it],
    ['text', orNull(anyText), arrayOf.text, (it: string) => it],
    ['jsonb', orNull(anyText.map((it) => JSON.stringify(it))), arrayOf.jsonb, (it: string) => it],
    ['int', integer(32), arrayOf.int, String],
    ['bigint', orNull(integer(64)), arrayOf.bigint, String],
  ];

  it.each(cases)('of type %s arrives as it was sent', async (type, element, encode, told) => {
    await fc.assert(
      fc.asyncProperty(fc.array(element), async (values) => {
        const expected = values.map((it) => (it === null ? null : told(it as never)));
        const found = await readBack(type, encode(values as never));
        // Postgres writes JSON with escapes of its own.
        const plain =
          type === 'jsonb' ? (it: string | null) => it && (JSON.parse(it) as unknown) : (it: string | null) => it;
        expect(found.map(plain)).toEqual(expected.map(plain));
      }),
      { numRuns: 50 },
    );
  });

  it('of times arrives to the millisecond, before 2000 as well', async () => {
    const times = ['1969-12-31T23:59:59.999Z', '2000-01-01T00:00:00.000Z', '2026-11-28T22:31:22.001Z'];
    const { rows } = await client.query(`SELECT $1::timestamptz[] AS times`, [
      arrayOf.timestamptz(times.map((it) => new Date(it))),
    ]);
    expect((rows as { times: Date[] }[])[0]!.times.map((it) => it.toISOString())).toEqual(times);
  });

  it('may be of any size', async () => {
    const texts = [
      'é'.repeat(100_000),
      '',
      'x'.repeat(300_000),
      ...Array.from({ length: 5_000 }, (_, index) => `${index}`),
    ];
    expect(await readBack('text', arrayOf.text(texts))).toEqual(texts);
    const numbers = Array.from({ length: 20_000 }, (_, index) => index * 2 ** 38);
    expect(await readBack('bigint', arrayOf.bigint(numbers))).toEqual(numbers.map(String));
  });

  it.each([
    '',
    'no uuid',
    '00000000-0000-7000-8000-00000000000',
    '00000000-0000-7000-8000-00000000000g',
    'é0000000-0000-7000-8000-000000000000',
  ])('of UUIDs is refused with %j', (text) => {
    expect(() => arrayOf.uuid([text])).toThrow('is no UUID');
  });

  it.each([0.5, Number.NaN, Number.POSITIVE_INFINITY])('of integers is refused with %d', (value) => {
    expect(() => arrayOf.bigint([value])).toThrow('is no integer');
  });

  it('of times is refused with an invalid one', () => {
    expect(() => arrayOf.timestamptz([new Date(Number.NaN)])).toThrow('is no integer');
  });
});
