import { bytesOfText, bytesOfValue } from './guarded.js';

/** How values of a namespace are written, and what they take in this process. */
export interface Codec<Value> {
  encode(value: Value): string;
  decode(text: string): Value;
  bytesOf(value: Value | undefined, text: string): number;
}

/** Iterative, so that depth cannot exhaust the stack. */
const frozen = (value: unknown): unknown => {
  const open = [value];
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next !== 'object' || next === null) continue;
    Object.freeze(next);
    for (const member of Object.values(next)) open.push(member);
  }
  return value;
};

/**
 * JSON. Whoever reads a value gets the same object as others, so it is frozen; and it is the one that JSON gives back, for
 * whoever wrote it as for whoever reads it later: a date is a text to both.
 */
export const jsonCodec: Codec<never> = {
  encode: (value: unknown) => {
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined) throw new TypeError(`a value of type ${typeof value} has no JSON and cannot be cached`);
    return text;
  },
  decode: (text) => frozen(JSON.parse(text)) as never,
  bytesOf: bytesOfValue,
};

/** Text as it is: JSON that somebody else reads. */
export const textCodec: Codec<string> = {
  encode: (value) => value,
  decode: (text) => text,
  bytesOf: (_, text) => bytesOfText(text),
};
