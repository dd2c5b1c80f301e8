import type { PersonalData } from '#contracts';
import { canonicalJson } from './placement.js';

/** Whose a data key is. */
export interface Customer {
  tenant: string;
  customerId: string;
}

/** The key of a customer, as it is kept: of no use without the master key of that name. */
export interface WrappedKey {
  keyId: string;
  masterId: string;
  wrapped: Buffer;
}

/** The key of a customer, unwrapped: it is not kept anywhere. */
export interface DataKey {
  keyId: string;
  key: Buffer;
}

/** What an order tells of a person, sealed by the key of its customer. */
export interface SealedPersonalData {
  keyId: string;
  sealed: Buffer;
}

/** Whatever the order of their members. */
export const areSamePersonalData = (one: PersonalData, other: PersonalData): boolean =>
  canonicalJson(one) === canonicalJson(other);
