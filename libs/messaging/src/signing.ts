import { CleaveError } from '#contracts';
import { nowAndThen } from '#periodic';
import type { ServiceSecrets } from '#security';
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
 * Signs each message with the secret of the services. Signed is all that decides what is done; the time that is left is not,
 * because it grows shorter on the way.
 */
export class Signing {
  private readonly logger = new Logger('Messages');
  private readonly sayRefused = nowAndThen(saidEveryMs);

  /** @param now milliseconds since 1970 */
  constructor(
    private readonly secrets: ServiceSecrets,
    private readonly now: () => number = Date.now,
  ) {}

  sign(pattern: string, meta: Signed, body: string): Signature {
    const signedAt = this.now();
    return { signedAt, signature: this.secrets.sign(headOf(pattern, { ...meta, signedAt }), body) };
  }

  /** @throws CleaveError `internal` for what nobody with the secret has sent, or too long ago */
  check(pattern: string, { meta, body }: WireRequest): void {
    const fault = this.faultOf(pattern, meta, body);
    if (fault === undefined) return;
    const detail = `${pattern} received a message that ${fault}`;
    this.sayRefused(() => this.logger.warn(`${detail}; the message was refused`));
    throw new CleaveError('internal', detail);
  }

  private faultOf(pattern: string, meta: WireRequest['meta'], body: string): string | undefined {
    const { signedAt, signature } = meta;
    if (signedAt === undefined || signature === undefined) return `is not signed; ${sameSecret}`;
    if (!this.secrets.isRight(signature, headOf(pattern, meta), body))
      return `is signed with another secret; ${sameSecret}`;
    if (Math.abs(this.now() - signedAt) > goodForMs)
      return 'was signed too long ago; synchronise the clocks of both sides';
    return undefined;
  }
}

const headOf = (pattern: string, { tenant, idempotencyKey, traceparent, signedAt }: Signed): string =>
  JSON.stringify([pattern, tenant, idempotencyKey ?? null, traceparent ?? null, signedAt]);
