import type { PersonalData } from '#contracts';
import { canonicalJson } from './placement.js';

/** The owner of a data key. */
export interface Customer {
  tenant: string;
  customerId: string;
}

/** The data key of a customer as it is stored: useless without the master key named by `masterId`. */
export interface WrappedKey {
  keyId: string;
  masterId: string;
  wrapped: Buffer;
}

/** The data key of a customer, unwrapped; it is never stored. */
export interface DataKey {
  keyId: string;
  key: Buffer;
}

/** The personal data of an order, encrypted with the data key of its customer. */
export interface SealedPersonalData {
  keyId: string;
  sealed: Buffer;
}

/** Compares them regardless of the order of their members. */
export const areSamePersonalData = (one: PersonalData, other: PersonalData): boolean =>
  canonicalJson(one) === canonicalJson(other);
