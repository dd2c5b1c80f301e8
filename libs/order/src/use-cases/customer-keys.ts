import { randomBytes, randomUUID } from 'node:crypto';
import { CleaveError, type PersonalData } from '#contracts';
import { open, seal, type MasterKeys } from '#security';
import type { Customer, DataKey, SealedPersonalData, WrappedKey } from '../domain/personal-data.js';

const keyBytes = 32;

/** Generates a new data key. @throws CleaveError `personal-data-not-kept` without any master key */
export const newKey = (masters: MasterKeys, customer: Customer): { key: DataKey; wrapped: WrappedKey } => {
  if (!masters.newest) throw notKept();
  const key = { keyId: randomUUID(), key: randomBytes(keyBytes) };
  return { key, wrapped: wrap(masters, customer, key) };
};

/** The same key under the newest master key. @throws as `unwrap` does */
export const rewrap = (masters: MasterKeys, customer: Customer, key: WrappedKey): WrappedKey =>
  wrap(masters, customer, unwrap(masters, customer, key));

/** @throws CleaveError `data-key-missing` if its master key is not configured */
export const unwrap = (masters: MasterKeys, customer: Customer, key: WrappedKey): DataKey => ({
  keyId: key.keyId,
  key: masters.unwrap(key, contextOf(customer, key.keyId)),
});

const wrap = (masters: MasterKeys, customer: Customer, { keyId, key }: DataKey): WrappedKey => ({
  keyId,
  ...masters.wrap(key, contextOf(customer, keyId)),
});

const contextOf = ({ tenant, customerId }: Customer, keyId: string): string[] => ['key', tenant, customerId, keyId];

export const sealPersonalData = (
  { keyId, key }: DataKey,
  tenant: string,
  orderId: string,
  personal: PersonalData,
): SealedPersonalData => ({
  keyId,
  sealed: seal(key, Buffer.from(JSON.stringify(personal)), ['order', tenant, orderId]),
});

export const openPersonalData = ({ key }: DataKey, tenant: string, orderId: string, sealed: Buffer): PersonalData =>
  JSON.parse(open(key, sealed, ['order', tenant, orderId]).toString()) as PersonalData;

export const notKept = (): CleaveError =>
  new CleaveError(
    'personal-data-not-kept',
    'contact and shipping_address cannot be stored, because no key to encrypt them is configured. Leave them out, or ' +
      'set DATA_KEYS: a name, a colon and 32 random bytes in base64.',
  );
