import { createHmac, timingSafeEqual } from 'node:crypto';
import { CleaveError } from '#contracts';
import { Logger } from '@nestjs/common';
import type { WireRequest } from './wire.js';

/** How far the clocks of two machines may be apart, with what a message waits on the way, in milliseconds. */
const goodForMs = 120_000;
/** Strangers do not fill the log. */
const saidEveryMs = 10_000;

const sameSecret = 'set the same SERVICE_SECRET on both sides';

export type Signature = Required<Pick<WireRequest['meta'], 'signedAt' | 'signature'>>;
type Signed = Pick<WireRequest['meta'], 'tenant' | 'idempotencyKey' | 'traceparent' | 'signedAt'>;

/**
 * What the services of one installation know each other by: a secret with which each message is signed (HMAC-SHA256, RFC
 * 2104). Signed is all that decides what is done; the time that is left is not, because it grows shorter on the way.
 */
export class Signing {
  private readonly logger = new Logger('Messages');
  private saidAt = Number.NEGATIVE_INFINITY;

  /**
   * @param secret of all services alike, at least 32 random characters
   * @param now milliseconds since 1970
   */
  constructor(
    private readonly secret: string,
    private readonly now: () => number = Date.now,
  ) {}

  sign(pattern: string, meta: Signed, body: string): Signature {
    const signedAt = this.now();
    return { signedAt, signature: this.macOf(pattern, { ...meta, signedAt }, body).toString('base64url') };
  }

  /** @throws CleaveError `internal` for what nobody with the secret has sent, or too long ago */
  check(pattern: string, { meta, body }: WireRequest): void {
    const fault = this.faultOf(pattern, meta, body);
    if (fault === undefined) return;
    const detail = `${pattern} was asked by a message that ${fault}`;
    if (performance.now() - this.saidAt > saidEveryMs) {
      this.logger.warn(`${detail}; who asked was refused`);
      this.saidAt = performance.now();
    }
    throw new CleaveError('internal', detail);
  }

  private faultOf(pattern: string, meta: WireRequest['meta'], body: string): string | undefined {
    const { signedAt, signature } = meta;
    if (signedAt === undefined || signature === undefined) return `is not signed; ${sameSecret}`;
    const given = Buffer.from(signature, 'base64url');
    const right = this.macOf(pattern, meta, body);
    if (given.length !== right.length || !timingSafeEqual(given, right))
      return `is signed with another secret; ${sameSecret}`;
    if (Math.abs(this.now() - signedAt) > goodForMs)
      return 'was signed too long ago; set the clocks of both sides right';
    return undefined;
  }

  private macOf(pattern: string, { tenant, idempotencyKey, traceparent, signedAt }: Signed, body: string): Buffer {
    const head = JSON.stringify([pattern, tenant, idempotencyKey ?? null, traceparent ?? null, signedAt]);
    return createHmac('sha256', this.secret).update(head).update('\n').update(body).digest();
  }
}
