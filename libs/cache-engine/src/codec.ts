import { bytesOfText, freeze, ownText } from './guarded.js';

/** How values of a namespace are written. */
export interface Codec<Value> {
  encode(value: Value): string;
  /** @returns the value, which many will share, and the bytes that it takes in this process */
  decode(text: string): { value: Value; bytes: number };
}

/**
 * JSON. Whoever reads a value gets the same object as others, so it is frozen; and it is the one that JSON gives back, for
 * whoever wrote it as for whoever reads it later: a date is a text to both.
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

/** Text as it is: JSON that somebody else reads. */
export const textCodec: Codec<string> = {
  encode: (value) => value,
  decode: (text) => ({ value: ownText(text), bytes: bytesOfText(text) }),
};
