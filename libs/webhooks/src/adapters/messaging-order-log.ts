import type { OrderEventType, OrderLogEvent, orderContract } from '#contracts';
import type { ReadLog } from '#events';
import type { ContractClient } from '#messaging';
import type { WantedTypes } from '../use-cases/accept-events.js';

type Types = ReadonlySet<OrderEventType> | null;

/** The log of orders in the order module, wherever that runs; no events are fetched if no endpoint wants any. */
export const wantedLog =
  (orders: ContractClient<typeof orderContract>, wanted: WantedTypes): ReadLog<OrderLogEvent> =>
  async (after, limit) => {
    for (let types = await wanted.wanted(); ;) {
      const page = await orders.call('events', { after, limit, types: types && [...types] });
      // An endpoint may have been registered before the events that were left out: then the page is read again.
      const now = await wanted.wanted();
      if (isWithin(now, types)) return { events: page.events, until: page.until, isMore: page.is_more };
      types = now;
    }
  };

const isWithin = (some: Types, others: Types): boolean =>
  others === null || (some !== null && [...some].every((it) => others.has(it)));
