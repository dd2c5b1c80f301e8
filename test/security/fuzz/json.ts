/** JSON text that JSON.stringify would not produce. */
export class Raw {
  constructor(readonly text: string) {}
}

/** An object as an ordered list of members, in which keys may repeat. */
export class Members {
  constructor(readonly of: [key: string, value: unknown][]) {}

  static in(object: object): Members {
    return new Members(Object.entries(object));
  }
}

/** The JSON text of a value, which may contain `Raw` and `Members`. */
export const textOf = (value: unknown): string => {
  if (value instanceof Raw) return value.text;
  if (value instanceof Members)
    return `{${value.of.map(([key, member]) => `${JSON.stringify(key)}:${textOf(member)}`).join(',')}}`;
  if (Array.isArray(value)) return `[${value.map(textOf).join(',')}]`;
  if (value !== null && typeof value === 'object') return textOf(Members.in(value));
  return JSON.stringify(value) ?? 'null';
};
