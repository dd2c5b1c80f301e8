import { Injectable } from '@nestjs/common';
import type { OrderLogEvent, orderContract } from '#contracts';
import { EventSource, fromLog, type HeldPart, type Reading } from '#events';
import type { ContractClient } from '#messaging';
import { salesTypes } from '../domain/sales.js';
import type { OrderLog } from '../use-cases/follow-orders.js';

/** The log of orders in the order module, wherever that runs. */
@Injectable()
export class MessagingOrderLog extends EventSource<OrderLogEvent> implements OrderLog {
  constructor(private readonly orders: ContractClient<typeof orderContract>) {
    super();
  }

  as(): EventSource<OrderLogEvent> {
    return this;
  }

  read(parts: readonly HeldPart[], limit: number): Promise<Reading<OrderLogEvent>> {
    return fromLog(
      async (after, most) => {
        const page = await this.orders.call('events', { after, limit: most, types: salesTypes });
        return { events: page.events, until: page.until, isMore: page.is_more };
      },
      parts,
      limit,
    );
  }
}
