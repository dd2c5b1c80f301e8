import { z } from 'zod';
import { currency, idText, moment, pageOf } from './values.js';

const dayMessage = 'must be a day such as 2026-11-30';

/** A day in UTC, in ISO 8601. Year 0 is refused, because Postgres does not have it. */
export const calendarDay = z.iso.date(dayMessage).refine((day) => day >= '0001', dayMessage);

const units = z.int().min(0);

/** A sum over many orders, which can exceed the integers that a number represents exactly. */
const sumMinor = z.number().meta({ description: 'In minor units, exact up to 2^53.' });

export const salesOfDay = z
  .object({
    day: calendarDay.meta({
      description: 'The day in UTC when it happened: a return counts on the day of the return.',
    }),
    product_id: idText,
    currency,
    orders: units.meta({ description: 'Orders placed that include the product.' }),
    ordered: units.meta({ description: 'Units in the orders placed.' }),
    cancelled: units.meta({
      description: 'Units cancelled: of whole orders, of what remained of an order, and of orders that were not paid.',
    }),
    returned: units,
    sold: z.int().meta({ description: 'Units ordered minus units cancelled and returned on this day.' }),
    ordered_minor: sumMinor,
    cancelled_minor: sumMinor,
    returned_minor: sumMinor,
    sold_minor: sumMinor,
  })
  .meta({ id: 'SalesOfDay' });
export type SalesOfDay = z.output<typeof salesOfDay>;

export const salesPage = pageOf(salesOfDay).meta({ id: 'SalesPage' });

export const salesQuery = z.strictObject({
  product_id: idText.optional(),
  from: calendarDay.optional().meta({ description: 'The first day, in UTC.' }),
  to: calendarDay.optional().meta({ description: 'The last day, in UTC.' }),
  limit: z.string().optional(),
  cursor: z.string().max(1_000).optional(),
});

export const stockOutlook = z
  .object({
    product_id: idText,
    available: z.int(),
    window_days: z.int().meta({ description: 'How many full days before today the estimate is based on.' }),
    sold: z.int().meta({ description: 'Units sold on these days minus units cancelled and returned.' }),
    sold_per_day: z.number(),
    days_left: z
      .number()
      .nullable()
      .meta({ description: 'How many days the available stock lasts at this rate; null if nothing is being sold.' }),
    out_of_stock_on: calendarDay.nullable(),
  })
  .meta({ id: 'StockOutlook' });
export type StockOutlook = z.output<typeof stockOutlook>;

export const salesView = z
  .object({
    view: z.int().meta({ description: 'Counts how often the view was built.' }),
    state: z.enum(['building', 'serving', 'retired']),
    events: z.int().meta({ description: 'How many events it includes so far.' }),
    until: moment.nullable().meta({ description: 'When the last of these events happened.' }),
    begun_at: moment,
    serving_since: moment.nullable(),
  })
  .meta({ id: 'SalesView' });
export type SalesView = z.output<typeof salesView>;

export const salesViews = z.object({ data: z.array(salesView) }).meta({ id: 'SalesViews' });
