import { limits, type OrderEventType, type OrderLogEvent, type orderContract } from '#contracts';
import type { ReadLog } from '#events';
import type { ContractClient } from '#messaging';
import type { WantedTypes } from '../use-cases/accept-events.js';

type Types = ReadonlySet<OrderEventType> | null;

/**
 * The log of orders in the order module, wherever that runs; no events are fetched if no endpoint wants any.
 *
 * @param idleMs how often it is looked at while that is so: until then it seems to contain nothing new, so this is only for
 *   readers that poll. A new endpoint may get events that are older by this.
 */
export const wantedLog = (
  orders: ContractClient<typeof orderContract>,
  wanted: WantedTypes,
  idleMs = 0,
): ReadLog<OrderLogEvent> => {
  let idleUntil = Number.NEGATIVE_INFINITY;
  return async (after, limit) => {
    for (let types = await wanted.wanted(); ;) {
      const isIdle = types?.size === 0;
      if (isIdle && performance.now() < idleUntil) return { events: [], until: after, isMore: false };
      const page = await orders.call('events', {
        ...{ after, types: types && [...types] },
        limit: isIdle ? limits.logPage : limit,
      });
      if (isIdle && !page.is_more) idleUntil = performance.now() + idleMs;
      // An endpoint may have been registered before the events that were left out: then the page is read again.
      const now = await wanted.wanted();
      if (isWithin(now, types)) return { events: page.events, until: page.until, isMore: page.is_more };
      types = now;
    }
  };
};

const isWithin = (some: Types, others: Types): boolean =>
  others === null || (some !== null && [...some].every((it) => others.has(it)));
