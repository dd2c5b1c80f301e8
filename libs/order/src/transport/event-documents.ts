import { z } from 'zod';
import type { orderEvent } from '#contracts';
import type { Cursors } from '#rest';
import type { OrderEvent, Position } from '../use-cases/read-events.js';

const number = z.string().regex(/^\d{1,20}$/);
const cursor = z.object({ xid: number, id: number });

/** An event as callers see it. */
export const eventDocument = (cursors: Cursors, event: OrderEvent): z.output<typeof orderEvent> => {
  const { orderId, version, type, status, data, at } = event;
  return {
    event_id: `${orderId}:${version}`,
    cursor: eventCursor(cursors, event),
    type: `order.${type}`,
    order_id: orderId,
    version,
    status,
    data,
    at,
  };
};

export const eventCursor = (cursors: Cursors, { xid, id }: Position): string => cursors.write({ xid, id });

/** @throws CleaveError `invalid-cursor` */
export const positionIn = (cursors: Cursors, text: string | undefined): Position | undefined =>
  cursors.read(text, cursor);
