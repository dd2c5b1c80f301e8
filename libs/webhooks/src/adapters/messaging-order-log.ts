import { Injectable } from '@nestjs/common';
import type { OrderEventType, OrderLogEvent, orderContract } from '#contracts';
import { fromLog, type HeldPart, type Reading } from '#events';
import type { ContractClient } from '#messaging';
import type { OrderLog, WantedTypes } from '../use-cases/accept-events.js';

type Types = ReadonlySet<OrderEventType> | null;

/** The log of orders in the order module, wherever that runs; where nobody asks for anything, nothing is fetched. */
@Injectable()
export class MessagingOrderLog implements OrderLog {
  constructor(
    private readonly orders: ContractClient<typeof orderContract>,
    private readonly types: WantedTypes,
  ) {}

  read(parts: readonly HeldPart[], limit: number): Promise<Reading<OrderLogEvent>> {
    return fromLog((after, most) => this.page(after, most), parts, limit);
  }

  private async page(after: string, limit: number) {
    for (let types = await this.types.wanted(); ;) {
      const asked = types && [...types];
      const { events, until, is_more: isMore } = await this.orders.call('events', { after, limit, types: asked });
      // An endpoint may have been registered before what was left out happened.
      const now = await this.types.wanted();
      if (isWithin(now, types)) return { events, until, isMore };
      types = now;
    }
  }
}

const isWithin = (some: Types, others: Types): boolean =>
  others === null || (some !== null && [...some].every((it) => others.has(it)));
