import { randomUUID } from 'node:crypto';
import type { Head } from './entry.js';

/** Of the text that a lease is: it carries the tags. */
const longestLease = 16_384;

/** Of the namespace and of tags, before a value was loaded. */
export type Versions = Pick<Head, 'namespaceVersion' | 'tags'>;

/** A lease carries what the value will be kept under: whoever fills may be another process than the one that gave it. */
export const tokenOf = ({ namespaceVersion, tags }: Versions): string => {
  const token = Buffer.from(JSON.stringify([randomUUID(), namespaceVersion, tags])).toString('base64url');
  if (token.length > longestLease)
    throw new RangeError(
      `the tags of a lease are too long: the lease would have ${token.length} characters, but the limit is ${longestLease}`,
    );
  return token;
};

/** It is no proof of anything: what is filled is let in by the whole token alone. */
export const versionsIn = (token: string): Versions | undefined => {
  try {
    if (token.length > longestLease) return undefined;
    const [, namespaceVersion, tags] = JSON.parse(Buffer.from(token, 'base64url').toString()) as unknown[];
    const isPair = (it: unknown): boolean =>
      Array.isArray(it) && it.length === 2 && it.every((text) => typeof text === 'string');
    const isVersions = typeof namespaceVersion === 'string' && Array.isArray(tags) && tags.every(isPair);
    return isVersions ? { namespaceVersion, tags } : undefined;
  } catch {
    return undefined;
  }
};
