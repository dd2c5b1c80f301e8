import { randomUUID } from 'node:crypto';
import type { Head } from './entry.js';

/** The longest lease token, in characters: it contains the tags. */
const longestLease = 16_384;

/** The versions of the namespace and the tags before a value was loaded. */
export type Versions = Pick<Head, 'namespaceVersion' | 'tags'>;

/**
 * A lease token contains the versions that its value will be stored under, because the process that fills the key may not
 * be the one that granted the lease.
 */
export const tokenOf = ({ namespaceVersion, tags }: Versions): string => {
  const token = Buffer.from(JSON.stringify([randomUUID(), namespaceVersion, tags])).toString('base64url');
  if (token.length > longestLease)
    throw new RangeError(
      `the tags of a lease are too long: the lease would have ${token.length} characters, but the limit is ${longestLease}`,
    );
  return token;
};

/** The token proves nothing by itself: a fill is accepted only if the whole token matches the stored one. */
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
