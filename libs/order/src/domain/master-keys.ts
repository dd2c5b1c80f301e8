import { createCipheriv, createDecipheriv, randomBytes, randomUUID } from 'node:crypto';
import { CleaveError } from '#contracts';

/** A key that wraps others. It is configured, and never kept with what it wraps. */
export interface MasterKey {
  id: string;
  /** 32 bytes. */
  key: Buffer;
}

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

const algorithm = 'aes-256-gcm';
const keyBytes = 32;
const nonceBytes = 12;
const tagBytes = 16;

/**
 * Encrypts so that only the key opens it, and only as what it was sealed as: `context` is not kept in it.
 * @returns the nonce, the tag and as many bytes as it was given
 */
export const seal = (key: Buffer, content: Buffer, context: readonly string[]): Buffer => {
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv(algorithm, key, nonce, { authTagLength: tagBytes });
  cipher.setAAD(Buffer.from(JSON.stringify(context)));
  const sealed = Buffer.concat([cipher.update(content), cipher.final()]);
  return Buffer.concat([nonce, cipher.getAuthTag(), sealed]);
};

/** @throws Error where it was sealed by another key, as something else, or was changed since */
export const open = (key: Buffer, sealed: Buffer, context: readonly string[]): Buffer => {
  const decipher = createDecipheriv(algorithm, key, sealed.subarray(0, nonceBytes), { authTagLength: tagBytes });
  decipher.setAAD(Buffer.from(JSON.stringify(context)));
  decipher.setAuthTag(sealed.subarray(nonceBytes, nonceBytes + tagBytes));
  return Buffer.concat([decipher.update(sealed.subarray(nonceBytes + tagBytes)), decipher.final()]);
};

/** The configured keys: the first wraps, all of them unwrap. */
export class MasterKeys {
  constructor(private readonly keys: readonly MasterKey[]) {}

  get newest(): MasterKey | undefined {
    return this.keys[0];
  }

  has(id: string): boolean {
    return this.keys.some((it) => it.id === id);
  }

  /** A key that is not there yet. @throws CleaveError `personal-data-not-kept` without any master key */
  newKey(customer: Customer): { key: DataKey; wrapped: WrappedKey } {
    const key = { keyId: randomUUID(), key: randomBytes(keyBytes) };
    return { key, wrapped: this.wrap(customer, key) };
  }

  /** The same key under the newest master key. */
  rewrap(customer: Customer, key: WrappedKey): WrappedKey {
    return this.wrap(customer, this.unwrap(customer, key));
  }

  /** @throws CleaveError `data-key-missing` where the master key that it takes is not configured, or another one by its name */
  unwrap(customer: Customer, { keyId, masterId, wrapped }: WrappedKey): DataKey {
    const master = this.keys.find((it) => it.id === masterId);
    const needed = `The personal data of this customer are encrypted by way of the key ${masterId}`;
    if (!master)
      throw new CleaveError(
        'data-key-missing',
        `${needed}, which DATA_KEYS does not have. Add it behind the first one.`,
      );
    try {
      return { keyId, key: open(master.key, wrapped, contextOf(customer, keyId)) };
    } catch (error) {
      const detail = `${needed}, and DATA_KEYS has another one by that name. Give that one another name, and add the one that it was.`;
      throw new CleaveError('data-key-missing', detail, {}, { cause: error });
    }
  }

  private wrap(customer: Customer, { keyId, key }: DataKey): WrappedKey {
    const { newest } = this;
    if (!newest) throw notKept();
    return { keyId, masterId: newest.id, wrapped: seal(newest.key, key, contextOf(customer, keyId)) };
  }
}

const contextOf = ({ tenant, customerId }: Customer, keyId: string): string[] => ['key', tenant, customerId, keyId];

export const notKept = (): CleaveError =>
  new CleaveError(
    'personal-data-not-kept',
    'contact and shipping_address cannot be encrypted here, so they are not taken. Leave them out, or have DATA_KEYS set: ' +
      'a name, a colon and 32 random bytes in base64.',
  );
