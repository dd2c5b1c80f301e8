import { z } from 'zod';

const pattern = z.regexes.uuid();

/** What a character can be in a UUID. */
const role = { digit: 1, version: 2, variant: 4, hyphen: 8 };
/** The roles of each UTF-16 code unit. */
const roles = new Uint8Array(0x1_0000);
const give = (characters: string, bit: number): void => {
  for (const character of characters) roles[character.charCodeAt(0)]! |= bit;
};
give('0123456789abcdefABCDEF', role.digit);
give('12345678', role.version);
give('89abAB', role.variant);
give('-', role.hyphen);

const layout = 'dddddddd-dddd-Vddd-vddd-dddddddddddd';
const needed = Uint8Array.from(
  layout,
  (it) => ({ d: role.digit, V: role.version, v: role.variant })[it] ?? role.hyphen,
);

const isUsual = (text: string): boolean => {
  if (text.length !== needed.length) return false;
  for (let at = 0; at < needed.length; at += 1) if ((roles[text.charCodeAt(at)]! & needed[at]!) === 0) return false;
  return true;
};

/**
 * The same as `z.uuid()`, but faster: its pattern took most of the time to validate a message with many ids. The pattern
 * still decides about any text that is not a usual UUID, such as the one of zeros.
 */
export const uuid = z.stringFormat('uuid', (text: string) => isUsual(text) || pattern.test(text));

/** The UUIDs that sort before and after all others (RFC 9562, 5.9 and 5.10). */
export const nilUuid = '00000000-0000-0000-0000-000000000000';
export const maxUuid = 'ffffffff-ffff-ffff-ffff-ffffffffffff';
