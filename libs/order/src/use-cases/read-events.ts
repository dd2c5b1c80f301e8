import { setTimeout } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { Bulkhead } from '#admission';
import { CleaveError, type OrderEventType } from '#contracts';
import type { HistoryEntry } from '../domain/order.js';
import { pageLines, toldLinesOf } from './read-orders.js';

/** A position in the log: after the row `id` of the transaction `xid`. Both are decimal texts of 64-bit integers. */
export interface Position {
  xid: string;
  id: string;
}

/** What happened to an order, and its position in the feed of a tenant. */
export interface OrderEvent extends HistoryEntry, Position {
  orderId: string;
}

/** The events of all orders of a tenant, in commit order: none is ever added before one that was already read. */
export abstract class EventFeed {
  /** At most `limit` events; fewer if they reach `pageLines` lines. */
  abstract after(tenant: string, position: Position, limit: number): Promise<OrderEvent[]>;
  /**
   * A page of the log of all tenants, for other modules.
   * @param limit how many events are examined; fewer if their orders are large
   * @param types the event types to return; null for all
   */
  abstract log(after: string, limit: number, types: readonly OrderEventType[] | null): Promise<LogPage>;
}

/** The part of the log up to a position. */
export interface LogPage {
  /** The events as JSON texts of `orderLogEvent`: there are many, so they are passed on without being parsed. */
  events: readonly string[];
  until: string;
  isMore: boolean;
}

const beginning: Position = { xid: '0', id: '0' };

/** Events per poll of a follower. */
const pageSize = 200;
/** How soon followers see new events. */
const pollMs = 250;
/** Each follower polls, so there is a limit. A tenant may have at most as many followers as it leaves to others. */
const maxFollowers = 200;
const tryAgainMs = 5_000;
/** How many connections followers read over at once, however far behind they are: the others are left to orders. */
const mostReading = 2;
/** As long as for a connection. Then the stream ends and its follower reconnects, instead of hearing nothing for ever. */
const longestWaitMs = 5_000;

/** Reads the change feed: one page, or everything that has happened and will happen. */
@Injectable()
export class ReadEvents {
  /** The number of followers by tenant. */
  private readonly followers = new Map<string, number>();
  private readonly reading = new Bulkhead({
    ...{ atOnce: mostReading, mostWaiting: maxFollowers, longestWaitMs },
    tooMuch: 'More clients read the events here',
  });

  constructor(private readonly feed: EventFeed) {}

  /** @returns events, and the position to continue from: that of the last one, or the given one */
  async page(
    tenant: string,
    after: Position = beginning,
    limit: number,
  ): Promise<{ events: OrderEvent[]; next: Position }> {
    const events = await this.feed.after(tenant, after, limit);
    return { events, next: events.at(-1) ?? after };
  }

  log(...page: Parameters<EventFeed['log']>): Promise<LogPage> {
    return this.feed.log(...page);
  }

  /**
   * Yields events until `gone` is aborted, and an empty list now and then while there is nothing new.
   *
   * @throws CleaveError at once: `unavailable` if there are too many followers, `too-many-requests` if too many of them are
   *   of this tenant
   */
  follow(tenant: string, after: Position = beginning, gone: AbortSignal): AsyncGenerator<OrderEvent[], void> {
    const own = this.followers.get(tenant) ?? 0;
    const free = maxFollowers - [...this.followers.values()].reduce((sum, it) => sum + it, 0);
    if (free === 0)
      throw new CleaveError(
        'unavailable',
        `There are ${maxFollowers} event streams here already. Request pages instead, or try again.`,
        { retry_after_ms: tryAgainMs },
      );
    if (own >= free)
      throw new CleaveError(
        'too-many-requests',
        `This tenant has ${own} event streams here already; the rest are for other tenants. Request pages instead, or try again.`,
        { retry_after_ms: tryAgainMs },
      );
    if (!gone.aborted) {
      this.count(tenant, 1);
      gone.addEventListener('abort', () => this.count(tenant, -1), { once: true });
    }
    return this.following(tenant, after, gone);
  }

  private count(tenant: string, more: 1 | -1): void {
    const own = (this.followers.get(tenant) ?? 0) + more;
    if (own > 0) this.followers.set(tenant, own);
    else this.followers.delete(tenant);
  }

  private async *following(tenant: string, after: Position, gone: AbortSignal): AsyncGenerator<OrderEvent[], void> {
    for (let position = after; !gone.aborted;) {
      const { events, next } = await this.reading.inTurn(async () =>
        gone.aborted ? { events: [], next: position } : this.page(tenant, position, pageSize),
      );
      yield events;
      position = next;
      if (!isCut(events)) await setTimeout(pollMs, undefined, { signal: gone }).catch(() => undefined);
    }
  }
}

/** Whether there may be more events already. */
const isCut = (events: readonly OrderEvent[]): boolean =>
  events.length === pageSize || toldLinesOf(events) >= pageLines;
