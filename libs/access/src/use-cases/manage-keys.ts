import { randomBytes } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import {
  CleaveError,
  defaultAccount,
  limits,
  type ApiKey,
  type CreateKeyRequest,
  type IssuedKey,
  type Scope,
  invalidRequest,
} from '#contracts';
import { keyTextOf, secretHashOf } from '#security';

export interface NewKey {
  tenant: string;
  account: string;
  name: string;
  scopes: readonly Scope[];
  secretHash: Buffer;
  expiresAt: Date | null;
}

/** The keys of tenants. */
export abstract class Keys {
  /** @returns undefined where the tenant has `most` already that are valid */
  abstract add(key: NewKey, most: number): Promise<ApiKey | undefined>;
  /** Newest first, those before `before`. */
  abstract page(tenant: string, before: string | undefined, limit: number): Promise<ApiKey[]>;
  abstract find(tenant: string | undefined, keyId: string): Promise<ApiKey | undefined>;
  /**
   * Puts another key in the place of one that is valid, which then ends after `overlapSeconds`, or before if it was to.
   *
   * @param most of those that have taken each other's place, how many may be valid before
   * @returns undefined where it is not valid, or was rotated before, or `most` were valid already
   */
  abstract rotate(
    tenant: string,
    keyId: string,
    secretHash: Buffer,
    { overlapSeconds, most }: { overlapSeconds: number; most: number },
  ): Promise<ApiKey | undefined>;
  /** Of those that have taken each other's place and this one's, how many are valid. */
  abstract countFamily(tenant: string, keyId: string): Promise<number>;
  /** @returns whether there is such a key */
  abstract revoke(tenant: string | undefined, keyId: string): Promise<boolean>;
}

/** Who remembers keys. */
export abstract class KeyChanges {
  /** Whatever is remembered here of any key is forgotten; processes elsewhere hear of it by themselves. */
  abstract changed(): void;
}

/** Makes keys, replaces them and takes them back. A tenant that is undefined stands for any. */
@Injectable()
export class ManageKeys {
  constructor(
    private readonly keys: Keys,
    private readonly changes: KeyChanges,
  ) {}

  /** @throws CleaveError `too-many-keys`, or `invalid-request` for an end that is past */
  async issue(tenant: string, request: CreateKeyRequest): Promise<IssuedKey> {
    const { name, scopes, account = defaultAccount, expires_at: expiresAt = null } = request;
    if (expiresAt && expiresAt.getTime() <= Date.now()) throw invalidRequest('expires_at', 'must be in the future');
    const secret = newSecret();
    const wanted = { tenant, account, name, scopes: [...new Set(scopes)], secretHash: secretHashOf(secret), expiresAt };
    const key = await this.keys.add(wanted, limits.keys);
    if (key) return told(key, secret);
    const detail = `A tenant has at most ${limits.keys} keys that are valid. Revoke those that nobody uses.`;
    throw new CleaveError('too-many-keys', detail);
  }

  async list(
    tenant: string,
    before: string | undefined,
    limit: number,
  ): Promise<{ data: ApiKey[]; last: string | null }> {
    const rows = await this.keys.page(tenant, before, limit + 1);
    const data = rows.slice(0, limit);
    return { data, last: rows.length > limit ? data.at(-1)!.key_id : null };
  }

  /**
   * @throws CleaveError `key-not-found`, `too-many-keys` where those before it are still valid, or `illegal-transition` where
   *   it is not valid or was rotated before
   */
  async rotate(tenant: string | undefined, keyId: string, overlapSeconds: number): Promise<IssuedKey> {
    const before = await this.keys.find(tenant, keyId);
    if (!before) throw keyNotFound();
    const secret = newSecret();
    const how = { overlapSeconds, most: mostOfFamily };
    const key = await this.keys.rotate(before.tenant, keyId, secretHashOf(secret), how);
    this.changes.changed();
    if (key) return told(key, secret);
    if (before.rotated_to === null && (await this.keys.countFamily(before.tenant, keyId)) >= mostOfFamily) {
      const tooMany = `${mostOfFamily} keys that have taken each other's place are valid. Wait until the oldest of them ends, or revoke it.`;
      throw new CleaveError('too-many-keys', tooMany);
    }
    const detail =
      'Only a key that is valid and has not been rotated can be. Rotate the one in its place, or make another.';
    throw new CleaveError('illegal-transition', detail);
  }

  /** One that is revoked already stays so. @throws CleaveError `key-not-found` */
  async revoke(tenant: string | undefined, keyId: string): Promise<void> {
    if (!(await this.keys.revoke(tenant, keyId))) throw keyNotFound();
    this.changes.changed();
  }
}

/** One in use, and two that end. */
const mostOfFamily = 3;

const newSecret = (): string => randomBytes(32).toString('hex');

const told = (key: ApiKey, secret: string): IssuedKey => ({ ...key, key: keyTextOf(key.key_id, secret) });

export const keyNotFound = (): CleaveError => new CleaveError('key-not-found', 'There is no key with this id.');
