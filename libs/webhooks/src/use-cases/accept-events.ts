import { Injectable } from '@nestjs/common';
import type { OrderEventType, OrderLogEvent } from '#contracts';
import { Checkpoints, EventConsumer, EventSource, type Checkpoint } from '#events';
import { messageOf, type Happening, type Message } from '../domain/message.js';
import { DeliverMessages } from './deliver-messages.js';

/** The messages that endpoints get. */
export abstract class Messages {
  /**
   * Stores messages, a delivery of each to every endpoint that wants it unless there is one already, and the checkpoint: all
   * of it or nothing.
   *
   * @returns how many deliveries are new
   */
  abstract keep(messages: readonly Message[], checkpoint: Checkpoint): Promise<number>;
}

/** The log of orders, limited to the types that some endpoint wants. */
export abstract class OrderLog extends EventSource<OrderLogEvent> {}

/** The event types that endpoints want; null for all. */
export abstract class WantedTypes {
  abstract wanted(): Promise<ReadonlySet<OrderEventType> | null>;
}

/** With more, a statement could not create the deliveries for more than a few endpoints within its timeout. */
const batchSize = 500;
const pollMs = 100;

/** Follows the events of orders and creates a message, and its deliveries, for the endpoints that want them: once for each event. */
@Injectable()
export class AcceptEvents extends EventConsumer<OrderLogEvent> {
  constructor(
    private readonly messages: Messages,
    private readonly deliverMessages: DeliverMessages,
    checkpoints: Checkpoints,
    log: OrderLog,
  ) {
    super('webhooks', checkpoints, log, {
      ...{ batchSize, pollMs },
      failing: 'the events of orders cannot be accepted for webhooks, trying again until it works',
      working: 'the events of orders are being accepted for webhooks again',
    });
  }

  protected async apply(events: readonly OrderLogEvent[], checkpoint: Checkpoint): Promise<void> {
    if (events.length === 0) await checkpoint.keep();
    else await this.accept(events.map(happeningOf), checkpoint);
  }

  /** @returns how many deliveries are new */
  async accept(happenings: readonly Happening[], checkpoint: Checkpoint): Promise<number> {
    const due = await this.messages.keep(happenings.map(messageOf), checkpoint);
    if (due > 0) this.deliverMessages.wake();
    return due;
  }
}

const happeningOf = ({ tenantid, source, id, type, subject, time, data, traceparent }: OrderLogEvent): Happening => ({
  ...{ tenant: tenantid, source, id, type, at: time, traceparent },
  data: { order_id: subject, ...data },
});
