import type { PersonalData } from '#contracts';
import { open, seal, type DataKey } from './master-keys.js';
import { canonicalJson } from './placement.js';

/** What an order tells of a person, sealed by the key of its customer. */
export interface SealedPersonalData {
  keyId: string;
  sealed: Buffer;
}

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

/** Whatever the order of their members. */
export const areSamePersonalData = (one: PersonalData, other: PersonalData): boolean =>
  canonicalJson(one) === canonicalJson(other);
