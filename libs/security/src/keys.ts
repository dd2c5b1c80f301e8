import { hash } from 'node:crypto';
import type { Caller } from './caller.js';

/** An API key that is valid now. */
export interface KnownKey {
  caller: Caller;
  /** SHA-256 of the secret. */
  secretHash: Buffer;
  /** How much longer it is valid, in milliseconds; null if it does not expire. */
  validForMs: number | null;
}

/** The store of API keys. */
export abstract class KeyDirectory {
  /**
   * @returns undefined for one that is unknown, revoked or expired
   * @throws CleaveError `unavailable`
   */
  abstract find(keyId: string): Promise<KnownKey | undefined>;
  /** Whether changes of keys are being notified. A key may be remembered only while they are. */
  abstract readonly hears: boolean;
  /** Calls `forget` at each change of a key, and whenever one may have been missed. */
  abstract onChange(forget: () => void): void;
}

const shape = /^ck_([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})_([0-9a-f]{64})$/;

/** The id and the secret in an API key; undefined if the text is not one. */
export const keyIdIn = (text: string): { keyId: string; secret: string } | undefined => {
  const parts = shape.exec(text);
  return parts ? { keyId: parts.slice(1, 6).join('-'), secret: parts[6]! } : undefined;
};

/**
 * The address with the secrets of API keys masked, even of incomplete keys; their ids stay. If one is masked, characters
 * that need no percent-encoding appear decoded, however often they were encoded; any other address is returned unchanged.
 */
export const withoutKeySecrets = (address: string): string => {
  const plain = plainOf(address);
  const told = plain.replaceAll(/(?<=[\da-f]{32})_[\da-f]{8,}/gi, '_***');
  return told === plain ? address : told;
};

/** Each encoding makes the text longer, so the recursion ends. */
const plainOf = (address: string): string => {
  const plain = address.replaceAll(/%(?:25)*(2[de]|3\d|[46][1-9a-f]|[57][\da]|5f|7e)/gi, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  );
  return plain === address ? plain : plainOf(plain);
};

/** A prefix by which secret scanners recognise leaked keys, the id, and 256 random bits in hexadecimal. */
export const keyTextOf = (keyId: string, secret: string): string => `ck_${keyId.replaceAll('-', '')}_${secret}`;

/** 256 random bits cannot be guessed, so one round of SHA-256 protects them as well as a slow hash. */
export const secretHashOf = (secret: string): Buffer => hash('sha256', secret, 'buffer');
