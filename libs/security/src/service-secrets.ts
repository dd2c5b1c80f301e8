import { createHmac, createSecretKey, timingSafeEqual, type KeyObject } from 'node:crypto';

/**
 * What the services of one installation know each other by (HMAC-SHA256, RFC 2104). The first secret signs and all of them are
 * believed, so that another one can take its place while services with either of them run.
 */
export class ServiceSecrets {
  private readonly keys: readonly [KeyObject, ...KeyObject[]];

  /** @param secrets at least one, each of at least 32 random characters */
  constructor(secrets: readonly string[]) {
    const [first, ...others] = secrets.map((it) => createSecretKey(it, 'utf8'));
    if (!first) throw new Error('There is no secret to sign with');
    this.keys = [first, ...others];
  }

  /** @param head begins with what it is signed for, so that what was signed for something else is no signature here */
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
