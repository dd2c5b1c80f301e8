import { orderLogEvent, type OrderLogEvent, type orderContract } from '#contracts';
import type { EventBus, EventBusAddress, EventSource, ReadLog } from '#events';
import type { ContractClient } from '#messaging';
import { salesTypes } from '../domain/sales.js';
import type { OrderLog } from '../use-cases/follow-orders.js';

/** The log of the order module, wherever that runs, read by polling or from the event bus. */
export class MessagingOrderLog implements OrderLog {
  constructor(
    private readonly orders: ContractClient<typeof orderContract>,
    private readonly bus: EventBus,
    private readonly at: EventBusAddress,
  ) {}

  as(consumer: string): EventSource<OrderLogEvent> {
    const readLog: ReadLog<OrderLogEvent> = async (after, limit) => {
      const { events, until, is_more } = await this.orders.call('events', { after, limit, types: salesTypes });
      return { events, until, isMore: is_more };
    };
    return this.bus.sourceFor(this.at, { log: 'orders', consumer, schema: orderLogEvent, readLog });
  }
}
