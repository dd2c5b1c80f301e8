import { randomUUID } from 'node:crypto';

/** The first 16 bytes of a hash in hex, as a UUID of version 8 (RFC 9562); the version and variant bits are overwritten. */
export const uuidOfHash = (hex: string): string => {
  const variant = ((Number.parseInt(hex[16]!, 16) & 0x3) | 0x8).toString(16);
  const [one, two, three] = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(13, 16)];
  return `${one}-${two}-8${three}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
};

/** A UUID of version 7 (RFC 9562) for a time in milliseconds since the epoch. */
export const uuidOfTime = (now: number): string => `${timeInUuid(now)}-7${randomUUID().slice(15)}`;

/** Not greater than any UUID of version 7 for this time or a later one, and greater than any for an earlier one. */
export const leastUuidOfTime = (now: number): string => `${timeInUuid(now)}-0000-0000-000000000000`;

const timeInUuid = (now: number): string => {
  const millisecond = now.toString(16).padStart(12, '0');
  return `${millisecond.slice(0, 8)}-${millisecond.slice(8)}`;
};
