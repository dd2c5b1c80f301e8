import { CleaveError } from '#contracts';
import { throttled } from '#periodic';
import type { ServiceSecrets } from '#security';
import { Logger } from '@nestjs/common';
import type { WireRequest } from './wire.js';

/** Greatest difference between `signedAt` and our clock: clock skew plus time in transit, in milliseconds. */
const goodForMs = 120_000;
/** Refusals are logged at most this often, so that strangers cannot fill the log. */
const saidEveryMs = 10_000;

const sameSecret = 'set the same SERVICE_SECRET on both sides';

export type Signature = Required<Pick<WireRequest['meta'], 'signedAt' | 'signature'>>;
type Signed = Pick<WireRequest['meta'], 'tenant' | 'idempotencyKey' | 'traceparent' | 'signedAt'>;

/**
 * Signs messages with the secret that the services share. The signature covers all that decides what is done, but not the
 * remaining time, which shrinks on the way.
 */
export class Signing {
  private readonly logger = new Logger('Messages');
  private readonly sayRefused = throttled(saidEveryMs);

  /** @param now milliseconds since 1970 */
  constructor(
    private readonly secrets: ServiceSecrets,
    private readonly now: () => number = Date.now,
  ) {}

  sign(pattern: string, meta: Signed, body: string): Signature {
    const signedAt = this.now();
    return { signedAt, signature: this.secrets.sign(headOf(pattern, { ...meta, signedAt }), body) };
  }

  /** @throws CleaveError `internal` if the message is not signed with the secret, or was signed too long ago */
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
