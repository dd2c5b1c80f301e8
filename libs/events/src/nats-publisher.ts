import { jetstream } from '@nats-io/jetstream';
import { RequestError, headers, type NatsConnection } from '@nats-io/transport-node';
import type { NatsLink } from '#nats';
import type { LogEntry } from './event-consumer.js';
import { signatureHeader, type EventSigning } from './event-signing.js';
import type { Linked } from './linked-log.js';
import { ensureStream, previousHeader, sequenceHeader, streamOf, subjectOf, type KeptLog } from './nats-stream.js';
import { partOf } from './parts.js';

/** The fields of an envelope that are repeated outside it. */
export interface Enveloped extends LogEntry {
  id: string;
  traceparent?: string | undefined;
}

/** Publishes events to those who follow a log from elsewhere. */
export abstract class EventPublisher {
  /** Creates the stream. To be called before anything is published; costs nothing once the stream exists. */
  abstract prepare(): Promise<void>;
  /** Resolves once all events are stored there. After a failure any of them may be, and all are to be published again. */
  abstract publish(events: readonly Linked<Enveloped>[]): Promise<void>;
}

/** Shorter than a lease, so that no other instance has taken over by the time the answer is processed. */
const ackTimeoutMs = 3_000;
/** The part of the maximum message size that is left to the headers. */
const headerBytes = 4_096;

/** Publishes to JetStream, each event as a CloudEvent in structured mode. */
export class NatsPublisher extends EventPublisher {
  private prepared: NatsConnection | undefined;

  constructor(
    private readonly connection: NatsLink,
    private readonly kept: KeptLog,
    private readonly signing: EventSigning | undefined,
  ) {
    super();
  }

  async prepare(): Promise<void> {
    const connection = await this.connection.open();
    if (this.prepared === connection) return;
    await ensureStream(connection, this.kept);
    this.prepared = connection;
  }

  async publish(events: readonly Linked<Enveloped>[]): Promise<void> {
    const connection = await this.connection.open();
    // The failure may be a lost stream, so the next `prepare` creates it again.
    this.prepared = undefined;
    const client = jetstream(connection, { timeout: ackTimeoutMs });
    const maxBytes = (connection.info?.max_payload ?? 1_048_576) - headerBytes;
    // One connection keeps their order; if some are lost on the way, readers notice it by the links.
    const acks = events.map((it) => {
      const subject = subjectOf(this.kept.log, partOf(it.subject));
      const payload = payloadOf(it, maxBytes);
      const { sequence, previous } = it;
      return client.publish(subject, payload, {
        headers: headersOf(it, this.signing?.sign({ subject, sequence, previous, payload })),
        msgID: it.event.id,
        expect: { streamName: streamOf(this.kept.log) },
      });
    });
    const failed = (await Promise.allSettled(acks)).find((it) => it.status === 'rejected');
    if (failed) throw told(failed.reason);
    this.prepared = connection;
  }
}

/** The client reports a missing responder as a lack of JetStream, which is rarely the cause. */
const told = (error: unknown): unknown =>
  error instanceof Error && error.cause instanceof RequestError && error.cause.isNoResponders()
    ? new Error('no stream accepts events: it is missing, or has no leader, or NATS runs without JetStream', {
        cause: error,
      })
    : error;

/** An event that is too large is published without its payload: readers get it from the log. */
const payloadOf = ({ event }: Linked<Enveloped>, maxBytes: number): Uint8Array => {
  const payload = Buffer.from(JSON.stringify(event));
  return payload.length > maxBytes ? new Uint8Array() : payload;
};

const headersOf = ({ event, sequence, previous }: Linked<Enveloped>, signature: string | undefined) => {
  const all = headers();
  all.set('content-type', 'application/cloudevents+json');
  all.set(sequenceHeader, sequence);
  all.set(previousHeader, previous);
  if (signature !== undefined) all.set(signatureHeader, signature);
  if (event.traceparent !== undefined) all.set('traceparent', event.traceparent);
  return all;
};
