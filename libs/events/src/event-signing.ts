import { Logger } from '@nestjs/common';
import type { Counter } from '@opentelemetry/api';
import { throttled } from '#periodic';
import type { ServiceSecrets } from '#security';
import type { Metrics } from '#telemetry';

/** A header beside the CloudEvent, because the exact bytes of the payload are signed. */
export const signatureHeader = 'Cleave-Signature';

/** Limits the warnings, however many events are refused. */
const saidEveryMs = 10_000;
/** How long after a refusal the event bus reports that it is degraded. */
const recentMs = 60_000;

/** Everything that decides how an event is handled. The tenant is in the payload. */
export interface Published {
  /** The NATS subject: the log and the part. */
  subject: string;
  sequence: string;
  previous: string;
  payload: Uint8Array;
}

/**
 * Signs each event with the service secret, and verifies signatures. A signature has no maximum age: the position in the log
 * is signed too, and a reader that has passed it skips the event.
 */
export class EventSigning {
  private readonly logger = new Logger('EventBus');
  private readonly refused: Counter | undefined;
  private readonly sayRefused = throttled(saidEveryMs);
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
