import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { CleaveError } from '#contracts';

/** A key that wraps others, and secrets. It is configured, and never kept with what it wraps. */
export interface MasterKey {
  id: string;
  /** 32 bytes. */
  key: Buffer;
}

/** What is encrypted by a master key, as it is kept: of no use without the key of that name. */
export interface Wrapped {
  masterId: string;
  wrapped: Buffer;
}

const algorithm = 'aes-256-gcm';
const nonceBytes = 12;
const tagBytes = 16;

/**
 * Encrypts so that only the key opens it, and only as what it was sealed as: `context` is not kept in it.
 * @param key 32 bytes
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

  get ids(): string[] {
    return this.keys.map((it) => it.id);
  }

  has(id: string): boolean {
    return this.keys.some((it) => it.id === id);
  }

  /** By the newest, which there has to be. */
  wrap(content: Buffer, context: readonly string[]): Wrapped {
    const { newest } = this;
    if (!newest) throw new Error('there is no key in DATA_KEYS to wrap by');
    return { masterId: newest.id, wrapped: seal(newest.key, content, context) };
  }

  /**
   * By the key of that name, or by any other that opens it: where two had one name, each opens what it has wrapped.
   *
   * @throws CleaveError `data-key-missing` where none of those that are configured opens it
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
        ? `This is encrypted by way of the key ${masterId}, which DATA_KEYS does not have. Add it behind the first one.`
        : `This is not encrypted by way of the key that DATA_KEYS calls ${masterId}: another one had that name, or it was ` +
            'changed. Give this key another name and add the one that it was.',
    );
  }
}

/** @returns undefined where it was sealed by another key, as something else, or was changed since: that cannot be told apart */
const openedBy = (key: Buffer, sealed: Buffer, context: readonly string[]): Buffer | undefined => {
  try {
    return open(key, sealed, context);
  } catch {
    return undefined;
  }
};
