import { createHmac, createSecretKey, timingSafeEqual, type KeyObject } from 'node:crypto';

/**
 * Authenticates the services of one installation to each other (HMAC-SHA256, RFC 2104). The first secret signs and all of
 * them are accepted, so that it can be replaced while some services still have the old one.
 */
export class ServiceSecrets {
  private readonly keys: readonly [KeyObject, ...KeyObject[]];

  /** @param secrets at least one, each of at least 32 random characters */
  constructor(secrets: readonly string[]) {
    const [first, ...others] = secrets.map((it) => createSecretKey(it, 'utf8'));
    if (!first) throw new Error('There is no secret to sign with');
    this.keys = [first, ...others];
  }

  /** @param head begins with the purpose of the signature, so that a signature for one purpose is not valid for another */
  sign(head: string, body: string | Uint8Array): string {
    return macOf(this.keys[0], head, body).toString('base64url');
  }

  isRight(signature: string, head: string, body: string | Uint8Array): boolean {
    const given = Buffer.from(signature, 'base64url');
    return this.keys.some((key) => {
      const right = macOf(key, head, body);
      return given.length === right.length && timingSafeEqual(given, right);
    });
  }
}

const macOf = (key: KeyObject, head: string, body: string | Uint8Array): Buffer =>
  createHmac('sha256', key).update(`${head}\n`).update(body).digest();
