import { bytesOfText, freeze, ownText } from './guarded.js';

/** How values of a namespace are serialised. */
export interface Codec<Value> {
  encode(value: Value): string;
  /** @returns the value, which callers share, and its size in this process in bytes */
  decode(text: string): { value: Value; bytes: number };
}

/**
 * JSON. All readers of a value get the same object, so it is frozen. The writer too gets the value as JSON returns it, so
 * that it is the same for writers and readers: a date is a string to both.
 */
export const jsonCodec: Codec<never> = {
  encode: (value: unknown) => {
    const text = JSON.stringify(value) as string | undefined;
    if (text === undefined)
      throw new TypeError(`a value of type ${typeof value} cannot be represented as JSON and cannot be cached`);
    return text;
  },
  decode: (text) => {
    const value = JSON.parse(text) as never;
    return { value, bytes: freeze(value) };
  },
};

/** Stores text unchanged, for JSON that the caller parses. */
export const textCodec: Codec<string> = {
  encode: (value) => value,
  decode: (text) => ({ value: ownText(text), bytes: bytesOfText(text) }),
};
