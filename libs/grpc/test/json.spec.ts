import { describe, expect, it } from '@jest/globals';
import { grpcAddress } from '../src/address.js';
import { jsonOf, structOf, timestampOf } from '../src/json.js';

describe('a struct', () => {
  it.each([{}, { a: null, b: [1.5, 'ä', false, [], {}], '': { c: 0 } }])(
    'converts back to the JSON that it was made of: %j',
    (json) => {
      expect(jsonOf(structOf(json), 'x')).toEqual(json);
    },
  );

  it('treats __proto__ as an ordinary key', () => {
    const read = jsonOf(
      { fields: [{ key: '__proto__', value: { struct_value: {} } }, { value: { bool_value: true } }] },
      'x',
    );
    expect(Object.getPrototypeOf(read)).toBe(Object.prototype);
    expect(Object.keys(read)).toEqual(['__proto__', '']);
  });

  it('names the path of a value that JSON cannot represent', () => {
    const fields = [{ key: 'a', value: { list_value: { values: [{ bool_value: true }, { number_value: NaN }] } } }];
    expect(() => jsonOf({ fields }, 'metadata')).toThrow('metadata.a.1');
  });
});

it.each([
  ['2026-11-26T20:00:00.123Z', 123_000_000],
  ['1969-12-31T23:59:59.999Z', 999_000_000],
])('a timestamp keeps its milliseconds: %s', (text, nanos) => {
  const { seconds, ...rest } = timestampOf(new Date(text));
  expect(rest).toEqual({ nanos });
  expect(new Date(seconds * 1_000 + nanos / 1e6).toISOString()).toBe(text);
});

it('a gRPC address must be a host and a port', () => {
  for (const right of ['127.0.0.1:5001', 'localhost:1', '[::1]:65535']) expect(grpcAddress.parse(right)).toBe(right);
  for (const wrong of ['', '5001', ':5001', '::1:5001', 'a:65536', 'http://a:1', 'a:1,b:2', 'a:x'])
    expect(grpcAddress.safeParse(wrong).error?.issues[0]?.message).toContain('127.0.0.1:5001');
});
