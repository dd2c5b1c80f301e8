import { Injectable, type OnModuleInit } from '@nestjs/common';
import { z } from 'zod';
import { orderLogEvent, type OrderLogEvent } from '#contracts';
import {
  Checkpoints,
  EventConsumer,
  EventPublisher,
  LinkedLog,
  type Checkpoint,
  type Linked,
  type ReadLog,
} from '#events';
import { EventFeed } from './read-events.js';

const batchSize = 500;
/** How late an event is published if nothing wakes this process. */
const pollMs = 100;
const consumer = 'bus';

const orderLogEvents = z.array(orderLogEvent);

/** Parses the events of a page. */
export const eventsIn = (texts: readonly string[]): OrderLogEvent[] =>
  z.decode(orderLogEvents, JSON.parse(`[${texts.join(',')}]`) as z.input<typeof orderLogEvents>);

/** Publishes the events of orders to NATS: at least once, in order within each part of the log. Placing orders does not wait for it. */
@Injectable()
export class PublishEvents extends EventConsumer<Linked<OrderLogEvent>> implements OnModuleInit {
  constructor(
    private readonly positions: Checkpoints,
    feed: EventFeed,
    private readonly bus: EventPublisher,
  ) {
    const readLog: ReadLog<OrderLogEvent> = async (after, limit) => {
      const { events, ...page } = await feed.log(after, limit, null);
      return { ...page, events: eventsIn(events) };
    };
    super(consumer, positions, new LinkedLog(readLog), {
      ...{ batchSize, pollMs },
      failing: 'cannot publish events to the event bus, trying again until it works; orders are placed meanwhile',
      working: 'events are being published to the event bus again',
    });
  }

  async onModuleInit(): Promise<void> {
    await this.positions.begin(consumer);
  }

  protected override async execute(): Promise<boolean> {
    await this.bus.prepare();
    return super.execute();
  }

  protected async apply(events: readonly Linked<OrderLogEvent>[], checkpoint: Checkpoint): Promise<void> {
    await this.bus.publish(events);
    await checkpoint.keep();
  }
}
