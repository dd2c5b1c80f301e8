import { setTimeout } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { Lane } from '#admission';
import { CleaveError, type OrderEventType } from '#contracts';
import type { HistoryEntry } from '../domain/order.js';
import { pageLines, toldLinesOf } from './read-orders.js';

/** A place in the log: after the row `id` of the transaction `xid`. Both are decimal texts of 64-bit integers. */
export interface Position {
  xid: string;
  id: string;
}

/** What happened to an order, and where that stands in the feed of a tenant. */
export interface OrderEvent extends HistoryEntry, Position {
  orderId: string;
}

/** The events of all orders of a tenant, in the order of their commits: none is ever added in front of one that was read. */
export abstract class EventFeed {
  /** At most `limit` events; none more once they have `pageLines` lines. */
  abstract after(tenant: string, position: Position, limit: number): Promise<OrderEvent[]>;
  /**
   * The log as other modules read it, of all tenants.
   * @param limit so many are looked at; large orders make it fewer
   * @param types those that are told of them; all where it is null
   */
  abstract log(after: string, limit: number, types: readonly OrderEventType[] | null): Promise<LogPage>;
}

/** What is told of the log, of all up to a position. */
export interface LogPage {
  /** The events, as `orderLogEvent` says, each in JSON: they are many, and are passed on as they come. */
  events: readonly string[];
  until: string;
  isMore: boolean;
}

const beginning: Position = { xid: '0', id: '0' };

/** Events in one look while following. */
const pageSize = 200;
/** How soon followers see what is new. */
const pollMs = 250;
/** Each polls, so there is an end to them. A tenant follows as often as is left to the others, at most. */
const maxFollowers = 200;
const tryAgainMs = 5_000;
/** Of the connections, those that followers read by at once, however far behind they are: the others are for orders. */
const mostReading = 2;
/** As long as for a connection. Then the stream ends, and whoever followed comes again, in place of hearing nothing for ever. */
const longestWaitMs = 5_000;

/** Reads the change feed: a page, or all that has come and will come. */
@Injectable()
export class ReadEvents {
  /** How often each tenant follows. */
  private readonly followers = new Map<string, number>();
  private readonly reading = new Lane({
    ...{ atOnce: mostReading, mostWaiting: maxFollowers, longestWaitMs },
    tooMuch: 'More clients read the events here',
  });

  constructor(private readonly feed: EventFeed) {}

  /** @returns events, and the position to go on from: that of the last one, or the one given */
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
   * Events until the signal says that nobody takes them any more; an empty list now and then, while there is nothing new.
   *
   * @throws CleaveError at once: `unavailable` when too many follow already, `too-many-requests` when too many of them are
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

/** Whether more may follow at once. */
const isCut = (events: readonly OrderEvent[]): boolean =>
  events.length === pageSize || toldLinesOf(events) >= pageLines;
