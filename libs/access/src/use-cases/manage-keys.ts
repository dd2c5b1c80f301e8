import { randomBytes } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import {
  CleaveError,
  cutPage,
  defaultAccount,
  limits,
  type ApiKey,
  type CreateKeyRequest,
  type IssuedKey,
  type Page,
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

/** The API keys of all tenants. */
export abstract class Keys {
  /** @returns undefined if the tenant already has `most` valid keys */
  abstract add(key: NewKey, most: number): Promise<ApiKey | undefined>;
  /** Newest first, older than the key `before`. */
  abstract page(tenant: string, before: string | undefined, limit: number): Promise<ApiKey[]>;
  abstract find(tenant: string | undefined, keyId: string): Promise<ApiKey | undefined>;
  /**
   * Replaces a valid key with a new one. The old one expires after `overlapSeconds`, or earlier if it was going to.
   *
   * @param most how many keys of its family may be valid afterwards
   * @returns undefined if the key is not valid, was rotated before, or has `most` valid keys in its family already
   */
  abstract rotate(
    tenant: string,
    keyId: string,
    secretHash: Buffer,
    { overlapSeconds, most }: { overlapSeconds: number; most: number },
  ): Promise<ApiKey | undefined>;
  /** How many keys are valid in the family of this key: those that replaced each other by rotation. */
  abstract countFamily(tenant: string, keyId: string): Promise<number>;
  /** @returns whether there is such a key */
  abstract revoke(tenant: string | undefined, keyId: string): Promise<boolean>;
}

/** What this process remembers of keys. */
export abstract class KeyChanges {
  /** Forgets all keys that are remembered in this process; other processes are notified by the database. */
  abstract changed(): void;
}

/** Issues, rotates and revokes API keys. An undefined tenant stands for any. */
@Injectable()
export class ManageKeys {
  constructor(
    private readonly keys: Keys,
    private readonly changes: KeyChanges,
  ) {}

  /** @throws CleaveError `too-many-keys`, or `invalid-request` for an expiry in the past */
  async issue(tenant: string, request: CreateKeyRequest): Promise<IssuedKey> {
    const { name, scopes, account = defaultAccount, expires_at: expiresAt = null } = request;
    if (expiresAt && expiresAt.getTime() <= Date.now()) throw invalidRequest('expires_at', 'must be in the future');
    const secret = newSecret();
    const wanted = { tenant, account, name, scopes: [...new Set(scopes)], secretHash: secretHashOf(secret), expiresAt };
    const key = await this.keys.add(wanted, limits.keys);
    if (key) return told(key, secret);
    const detail = `A tenant can have at most ${limits.keys} valid keys. Revoke those that are no longer used.`;
    throw new CleaveError('too-many-keys', detail);
  }

  async list(tenant: string, before: string | undefined, limit: number): Promise<Page<ApiKey>> {
    return cutPage(await this.keys.page(tenant, before, limit + 1), limit, (it) => it.key_id);
  }

  /**
   * @throws CleaveError `key-not-found`, `too-many-keys` if too many keys of its family are still valid, or
   * `illegal-transition` if it is not valid or was rotated before
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
      const tooMany = `${mostOfFamily} keys that replaced each other are still valid. Wait until the oldest of them expires, or revoke it.`;
      throw new CleaveError('too-many-keys', tooMany);
    }
    const detail =
      'Only a valid key that has not been rotated yet can be rotated. Rotate the key that replaced it, or create a new one.';
    throw new CleaveError('illegal-transition', detail);
  }

  /** Idempotent: a revoked key stays revoked. @throws CleaveError `key-not-found` */
  async revoke(tenant: string | undefined, keyId: string): Promise<void> {
    if (!(await this.keys.revoke(tenant, keyId))) throw keyNotFound();
    this.changes.changed();
  }
}

/** The one in use, and two that are about to expire. */
const mostOfFamily = 3;

const newSecret = (): string => randomBytes(32).toString('hex');

const told = (key: ApiKey, secret: string): IssuedKey => ({ ...key, key: keyTextOf(key.key_id, secret) });

export const keyNotFound = (): CleaveError => new CleaveError('key-not-found', 'There is no key with this id.');
