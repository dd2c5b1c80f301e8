/**
 * Arrays as parameters, in Postgres' binary format. The driver would write them as text, escape every element, and Postgres
 * would parse it: that takes several times as long as this. Worth it for statements that take whole batches.
 */
export const arrayOf = {
  uuid: (values: readonly string[]): Buffer => encode(uuidOid, values, writeUuid),
  text: (values: readonly (string | null)[]): Buffer => encode(textOid, values, writeText),
  /** @param values texts that are JSON already */
  jsonb: (values: readonly (string | null)[]): Buffer => encode(jsonbOid, values, writeJsonb),
  int: (values: readonly number[]): Buffer => encode(int4Oid, values, writeInt4),
  bigint: (values: readonly (number | null)[]): Buffer => encode(int8Oid, values, writeInt8),
  timestamptz: (values: readonly Date[]): Buffer =>
    encode(
      timestamptzOid,
      values.map((it) => (it.getTime() - epochMs) * 1_000),
      writeInt8,
    ),
};

/** Postgres counts microseconds from here. */
const epochMs = Date.UTC(2000, 0, 1);

const [int8Oid, int4Oid, textOid, timestamptzOid, uuidOid, jsonbOid] = [20, 23, 25, 1184, 2950, 3802];

/** Reused for all arrays; each is copied out of it. */
let bytes = Buffer.allocUnsafe(65_536);

/** The longest element other than a text: a length and a UUID. */
const longestFixed = 20;

const encode = <T extends string | number>(
  oid: number,
  values: readonly (T | null)[],
  write: (value: T, at: number) => number,
): Buffer => {
  // Dimensions, whether there are nulls (Postgres ignores that), type of the elements, length, and the first index.
  bytes.writeInt32BE(1, 0);
  bytes.writeInt32BE(1, 4);
  bytes.writeInt32BE(oid, 8);
  bytes.writeInt32BE(values.length, 12);
  bytes.writeInt32BE(1, 16);
  let at = 20;
  for (const value of values) {
    reserve(at + longestFixed);
    at = value === null ? bytes.writeInt32BE(-1, at) : write(value, at);
  }
  return Buffer.from(bytes.subarray(0, at));
};

const reserve = (length: number): void => {
  if (length <= bytes.length) return;
  const larger = Buffer.allocUnsafe(2 * length);
  bytes.copy(larger);
  bytes = larger;
};

/** Writers return where the next element begins. */
const writeText = (value: string, at: number): number => {
  // A UTF-16 code unit takes at most three bytes in UTF-8.
  reserve(at + 4 + 3 * value.length);
  const length = bytes.write(value, at + 4);
  return bytes.writeInt32BE(length, at) + length;
};

/** The text, after the version of the format. */
const writeJsonb = (value: string, at: number): number => {
  reserve(at + 5 + 3 * value.length);
  const length = bytes.write(value, at + 5) + 1;
  bytes[at + 4] = 1;
  return bytes.writeInt32BE(length, at) + length;
};

const writeInt4 = (value: number, at: number): number => bytes.writeInt32BE(value, bytes.writeInt32BE(4, at));

const writeInt8 = (value: number, at: number): number => {
  if (!Number.isInteger(value)) throw new TypeError(`${value} is no integer`);
  bytes.writeInt32BE(8, at);
  bytes.writeInt32BE(Math.floor(value / 2 ** 32), at + 4);
  // The lower 32 bits: exact for every integer, and for a negative one as well.
  return bytes.writeInt32BE(value | 0, at + 8);
};

/** By character code: the value of a hexadecimal digit, and 255 for other characters. */
const digits = Uint8Array.from({ length: 128 }, (_, code) => {
  const digit = Number.parseInt(String.fromCharCode(code), 16);
  return Number.isNaN(digit) ? 255 : digit;
});
/** Where the bytes of a UUID are in its text. */
const places = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

const writeUuid = (value: string, at: number): number => {
  let next = bytes.writeInt32BE(16, at);
  let seen = 0;
  for (const place of places) {
    const high = digits[value.charCodeAt(place)] ?? 255;
    const low = digits[value.charCodeAt(place + 1)] ?? 255;
    seen |= high | low;
    bytes[next++] = (high << 4) | low;
  }
  if (value.length !== 36 || seen > 15) throw new TypeError(`${JSON.stringify(value)} is no UUID`);
  return next;
};
