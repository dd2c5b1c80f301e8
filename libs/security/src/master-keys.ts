import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { CleaveError } from '#contracts';

/** A key that encrypts other keys, and secrets. It is configured, and never stored with what it encrypts. */
export interface MasterKey {
  id: string;
  /** 32 bytes. */
  key: Buffer;
}

/** Data that is encrypted with the master key of that id, as it is stored. */
export interface Wrapped {
  masterId: string;
  wrapped: Buffer;
}

const algorithm = 'aes-256-gcm';
const nonceBytes = 12;
const tagBytes = 16;

/**
 * Encrypts with AES-256-GCM. `context` is authenticated but not stored, so only the same context opens the result.
 * @param key 32 bytes
 * @returns the nonce, the tag and the ciphertext, which is as long as `content`
 */
export const seal = (key: Buffer, content: Buffer, context: readonly string[]): Buffer => {
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv(algorithm, key, nonce, { authTagLength: tagBytes });
  cipher.setAAD(Buffer.from(JSON.stringify(context)));
  const sealed = Buffer.concat([cipher.update(content), cipher.final()]);
  return Buffer.concat([nonce, cipher.getAuthTag(), sealed]);
};

/** @throws Error if it was sealed with another key or another context, or was changed since */
export const open = (key: Buffer, sealed: Buffer, context: readonly string[]): Buffer => {
  const decipher = createDecipheriv(algorithm, key, sealed.subarray(0, nonceBytes), { authTagLength: tagBytes });
  decipher.setAAD(Buffer.from(JSON.stringify(context)));
  decipher.setAuthTag(sealed.subarray(nonceBytes, nonceBytes + tagBytes));
  return Buffer.concat([decipher.update(sealed.subarray(nonceBytes + tagBytes)), decipher.final()]);
};

/** The configured master keys: the first one encrypts, all of them decrypt. */
export class MasterKeys {
  constructor(private readonly keys: readonly MasterKey[]) {}

  get newest(): MasterKey | undefined {
    return this.keys[0];
  }

  get ids(): string[] {
    return this.keys.map((it) => it.id);
  }

  has(id: string): boolean {
    return this.keys.some((it) => it.id === id);
  }

  /** Encrypts with the newest key, which has to exist. */
  wrap(content: Buffer, context: readonly string[]): Wrapped {
    const { newest } = this;
    if (!newest) throw new Error('DATA_KEYS contains no key to encrypt with');
    return { masterId: newest.id, wrapped: seal(newest.key, content, context) };
  }

  /**
   * Decrypts with the key of that id, or with any other one that fits: if two keys had the same id, each opens its own.
   *
   * @throws CleaveError `data-key-missing` if none of the configured keys opens it
   */
  unwrap({ masterId, wrapped }: Wrapped, context: readonly string[]): Buffer {
    const named = this.keys.filter((it) => it.id === masterId);
    const others = this.keys.filter((it) => it.id !== masterId);
    for (const { key } of [...named, ...others]) {
      const opened = openedBy(key, wrapped, context);
      if (opened) return opened;
    }
    throw new CleaveError(
      'data-key-missing',
      named.length === 0
        ? `This is encrypted with the key ${masterId}, which DATA_KEYS does not contain. Add it after the first one.`
        : `This cannot be decrypted with the key that DATA_KEYS calls ${masterId}: another key had that name before, or the ` +
            'data was changed. Rename this key and add the earlier one.',
    );
  }
}

/** @returns undefined if the key or the context is another one, or the text was changed: there is no telling which */
const openedBy = (key: Buffer, sealed: Buffer, context: readonly string[]): Buffer | undefined => {
  try {
    return open(key, sealed, context);
  } catch {
    return undefined;
  }
};
