import { hash } from 'node:crypto';
import type { Caller } from './caller.js';

/** A key that is valid now. */
export interface KnownKey {
  caller: Caller;
  /** SHA-256 of the secret. */
  secretHash: Buffer;
  /** How long it will be, in milliseconds; null for as long as it is not revoked. */
  validForMs: number | null;
}

/** Where keys are kept. */
export abstract class KeyDirectory {
  /**
   * @returns undefined for one that is unknown, revoked or expired
   * @throws CleaveError `unavailable`
   */
  abstract find(keyId: string): Promise<KnownKey | undefined>;
  /** Whether a change of any key would be heard of at once: only then may a key be remembered. */
  abstract readonly hears: boolean;
  /** Calls `forget` at each change of a key, and whenever one may have been missed. */
  abstract onChange(forget: () => void): void;
}

const shape = /^ck_([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})_([0-9a-f]{64})$/;

/** What a key says, if it is one: its id and its secret. */
export const keyIdIn = (text: string): { keyId: string; secret: string } | undefined => {
  const parts = shape.exec(text);
  return parts ? { keyId: parts.slice(1, 6).join('-'), secret: parts[6]! } : undefined;
};

/**
 * The address without what makes a key that stands in it valid, also one that is not whole; its id may be told. In one that has
 * such a thing, characters that need no percent-encoding are as they are, however often they were encoded; any other address is
 * as it was.
 */
export const withoutKeySecrets = (address: string): string => {
  const plain = plainOf(address);
  const told = plain.replaceAll(/(?<=[\da-f]{32})_[\da-f]{8,}/gi, '_***');
  return told === plain ? address : told;
};

/** What is encoded once more is longer, so there is an end to it. */
const plainOf = (address: string): string => {
  const plain = address.replaceAll(/%(?:25)*(2[de]|3\d|[46][1-9a-f]|[57][\da]|5f|7e)/gi, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  );
  return plain === address ? plain : plainOf(plain);
};

/** A prefix by which scanners find keys in what is published by mistake, the id, and 256 random bits in hexadecimal. */
export const keyTextOf = (keyId: string, secret: string): string => `ck_${keyId.replaceAll('-', '')}_${secret}`;

/** Of 256 random bits nothing is found out by trying, so one round of SHA-256 keeps them as well as a slow hash. */
export const secretHashOf = (secret: string): Buffer => hash('sha256', secret, 'buffer');
