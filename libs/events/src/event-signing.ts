import { Logger } from '@nestjs/common';
import type { Counter } from '@opentelemetry/api';
import { nowAndThen } from '#periodic';
import type { ServiceSecrets } from '#security';
import type { Metrics } from '#telemetry';

/** Beside the CloudEvent, as what is signed are its very bytes. */
export const signatureHeader = 'Cleave-Signature';

/** Whoever publishes much does not fill the log. */
const saidEveryMs = 10_000;
/** For how long somebody should look at it. */
const recentMs = 60_000;

/** All that decides what is made of an event. The tenant is in the payload. */
export interface Published {
  /** Of NATS: the log and the part. */
  subject: string;
  sequence: string;
  previous: string;
  payload: Uint8Array;
}

/**
 * Signs each event with the secret of the services, and tells which were. An event has no age at which it is not believed any
 * more: where it stands in the log is signed, and whoever has come past it passes it over.
 */
export class EventSigning {
  private readonly logger = new Logger('EventBus');
  private readonly refused: Counter | undefined;
  private readonly sayRefused = nowAndThen(saidEveryMs);
  private refusedAt = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly secrets: ServiceSecrets,
    metrics?: Metrics,
  ) {
    this.refused = metrics?.meter('events').createCounter('events.consumer.refused', {
      unit: '{event}',
      description: 'Events skipped because they were not signed with a SERVICE_SECRET.',
    });
  }

  sign(event: Published): string {
    return this.secrets.sign(headOf(event), event.payload);
  }

  isRight(signature: string, event: Published): boolean {
    return this.secrets.isRight(signature, headOf(event), event.payload);
  }

  refuse(consumer: string, subject: string): void {
    this.refused?.add(1, { 'messaging.consumer.group.name': consumer });
    this.refusedAt = performance.now();
    const advice = 'set the same SERVICE_SECRET in all services, and check who may publish there';
    const refused = `${consumer} skips events from NATS under ${subject} that are not signed with SERVICE_SECRET`;
    this.sayRefused(() => this.logger.warn(`${refused}; the log is read instead: ${advice}`));
  }

  get hasRefusedLately(): boolean {
    return performance.now() - this.refusedAt < recentMs;
  }
}

const headOf = ({ subject, sequence, previous }: Published): string =>
  JSON.stringify(['cleave-event', subject, sequence, previous]);
