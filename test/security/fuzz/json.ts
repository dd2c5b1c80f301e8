/** A piece of JSON by its text, for what JSON.stringify would not write. */
export class Raw {
  constructor(readonly text: string) {}
}

/** An object by its members in order: a key may come twice, and may be any. */
export class Members {
  constructor(readonly of: [key: string, value: unknown][]) {}

  static in(object: object): Members {
    return new Members(Object.entries(object));
  }
}

/** The text of a value, which may have `Raw` and `Members` in it. */
export const textOf = (value: unknown): string => {
  if (value instanceof Raw) return value.text;
  if (value instanceof Members)
    return `{${value.of.map(([key, member]) => `${JSON.stringify(key)}:${textOf(member)}`).join(',')}}`;
  if (Array.isArray(value)) return `[${value.map(textOf).join(',')}]`;
  if (value !== null && typeof value === 'object') return textOf(Members.in(value));
  return JSON.stringify(value) ?? 'null';
};
