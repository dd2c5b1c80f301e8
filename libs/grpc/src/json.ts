import { invalidRequest } from './invalid-request.js';

type Json = unknown;

/** google.protobuf.Value, in its decoded form. */
interface Value {
  null_value?: unknown;
  number_value?: number;
  string_value?: string;
  bool_value?: boolean;
  struct_value?: Struct;
  list_value?: { values?: Value[] };
}

/** google.protobuf.Struct, in its decoded form: from descriptors, proto-loader decodes a map as a list of entries. */
export interface Struct {
  fields?: { key?: string; value?: Value }[];
}

/** google.protobuf.Timestamp */
export interface Timestamp {
  seconds: number;
  nanos: number;
}

/** A Struct with the properties of a JSON object. */
export const structOf = (object: object): Struct => ({
  fields: Object.entries(object).flatMap(([key, value]) =>
    value === undefined ? [] : [{ key, value: valueOf(value) }],
  ),
});

const valueOf = (json: Json): Value => {
  if (json === null) return { null_value: 'NULL_VALUE' };
  if (typeof json === 'number') return { number_value: json };
  if (typeof json === 'string') return { string_value: json };
  if (typeof json === 'boolean') return { bool_value: json };
  if (Array.isArray(json)) return { list_value: { values: json.map(valueOf) } };
  return { struct_value: structOf(json as object) };
};

/**
 * The JSON object that a Struct represents.
 *
 * @param path its place within the request
 * @throws CleaveError `invalid-request` for a value that JSON does not have
 */
export const jsonOf = ({ fields = [] }: Struct, path: string): Record<string, Json> =>
  // fromEntries, so that no key, such as `__proto__`, has a special meaning.
  Object.fromEntries(fields.map(({ key = '', value = {} }) => [key, jsonOfValue(value, `${path}.${key}`)]));

const jsonOfValue = (value: Value, path: string): Json => {
  if (value.struct_value) return jsonOf(value.struct_value, path);
  if (value.list_value) return (value.list_value.values ?? []).map((it, index) => jsonOfValue(it, `${path}.${index}`));
  if (Number.isFinite(value.number_value)) return value.number_value;
  if (value.string_value !== undefined) return value.string_value;
  if (value.bool_value !== undefined) return value.bool_value;
  if (value.null_value !== undefined) return null;
  throw invalidRequest([{ path, message: 'must be a JSON value: null, true, false, a finite number, a string …' }]);
};

export const timestampOf = (at: Date): Timestamp => {
  const seconds = Math.floor(at.getTime() / 1_000);
  return { seconds, nanos: (at.getTime() - seconds * 1_000) * 1_000_000 };
};
