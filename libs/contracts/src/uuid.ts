import { z } from 'zod';

const pattern = z.regexes.uuid();

/** What a character can be in a UUID. */
const role = { digit: 1, version: 2, variant: 4, hyphen: 8 };
/** The sum of the roles of each UTF-16 code unit. */
const roles = new Uint8Array(0x1_0000);
const give = (characters: string, bit: number): void => {
  for (const character of characters) roles[character.charCodeAt(0)]! |= bit;
};
give('0123456789abcdefABCDEF', role.digit);
give('12345678', role.version);
give('89abAB', role.variant);
give('-', role.hyphen);

const at = (text: string, index: number): number => roles[text.charCodeAt(index)]!;
const four = (text: string, from: number): number =>
  at(text, from) & at(text, from + 1) & at(text, from + 2) & at(text, from + 3);

/** Without a loop, which would take half as long again. */
const isUsual = (text: string): boolean =>
  text.length === 36 &&
  (four(text, 0) & four(text, 4) & four(text, 9) & four(text, 14) & role.digit) !== 0 &&
  (four(text, 19) & four(text, 24) & four(text, 28) & four(text, 32) & role.digit) !== 0 &&
  (at(text, 8) & at(text, 13) & at(text, 18) & at(text, 23) & role.hyphen) !== 0 &&
  (at(text, 14) & role.version) !== 0 &&
  (at(text, 19) & role.variant) !== 0;

/**
 * The same as `z.uuid()`, but several times faster: its pattern took most of the time to validate a message with many ids.
 * The pattern still decides about any text that is not a usual UUID, such as the one of zeros.
 */
export const uuid = z.stringFormat('uuid', (text: string) => isUsual(text) || pattern.test(text));
