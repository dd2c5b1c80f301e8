import { Injectable } from '@nestjs/common';
import type { Queries } from '#database';
import { messageOf, type Happening, type Message } from '../domain/message.js';

/** What endpoints are told. */
export abstract class Messages {
  /**
   * Keeps messages, and a delivery of each to every endpoint that asks for it, unless they are kept already.
   *
   * @param sql the transaction in which this happens
   * @returns how many deliveries are new
   */
  abstract keep(sql: Queries, messages: readonly Message[]): Promise<number>;
}

/**
 * Takes in what happened, for the endpoints that ask for it. In the transaction of whoever reads the events, so that none
 * is left out; one that is accepted again is not sent again.
 */
@Injectable()
export class AcceptEvents {
  constructor(private readonly messages: Messages) {}

  /** @returns how many deliveries are due once the transaction is committed: `DeliverMessages` may be woken then */
  async execute(sql: Queries, events: readonly Happening[]): Promise<number> {
    return events.length === 0 ? 0 : this.messages.keep(sql, events.map(messageOf));
  }
}
