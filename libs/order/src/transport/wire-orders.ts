import { nestingOf, limits, type OrderInFull, type orderEvent } from '#contracts';
import { invalidRequest, jsonOf, structOf, timestampOf, type Struct } from '#grpc';
import { refuseUnsafeJson } from '#rest';
import type { PipeTransform } from '@nestjs/common';
import type { z } from 'zod';

/** A decoded enum: its name, or its number if it is unknown here. */
type WireEnum = string | number;

/** The fields of `PlaceOrderRequest` that differ from JSON: 64-bit integers are strings, and unsent fields are absent. */
interface WirePlaceOrder {
  lines?: { unit_price_minor?: string }[];
  adjustments?: { kind?: WireEnum; amount_minor?: string }[];
  expected_total_minor?: string;
  metadata?: Struct;
}

interface WireListOrders {
  page_size?: number;
  status?: WireEnum;
  created_from?: WireTimestamp;
  created_before?: WireTimestamp;
}

interface WireTimestamp {
  seconds?: string;
  nanos?: number;
}

const fromEnum = (prefix: string, value: WireEnum | undefined): WireEnum | undefined => {
  if (typeof value !== 'string') return value;
  return value === `${prefix}UNSPECIFIED` ? undefined : value.slice(prefix.length).toLowerCase().replaceAll('_', '-');
};

const toEnum = (prefix: string, value: string): string => prefix + value.toUpperCase().replaceAll('-', '_');

const amountOf = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text));

/** Drops undefined members, because the schemas distinguish missing values from wrong ones. */
const given = (members: object): object =>
  Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));

/** The equivalent REST body. What REST refuses before any schema applies is refused here too. */
const placeOrderBody = (sent: WirePlaceOrder): object => {
  const { lines, adjustments, expected_total_minor, metadata } = sent;
  const body = given({
    ...sent,
    lines: lines?.map((it) => given({ ...it, unit_price_minor: amountOf(it.unit_price_minor) })),
    adjustments: adjustments?.map((it) => ({
      ...given({ ...it, kind: fromEnum('ADJUSTMENT_KIND_', it.kind) }),
      amount_minor: Number(it.amount_minor ?? 0),
    })),
    expected_total_minor: amountOf(expected_total_minor),
    metadata: metadata && jsonOf(metadata, 'metadata'),
  });
  if (nestingOf(body) > limits.nesting)
    throw invalidRequest([{ path: 'metadata', message: `is nested deeper than ${limits.nesting} levels` }]);
  refuseUnsafeJson(body);
  return body;
};

/** RFC 3339; for values that no google.protobuf.Timestamp may have, a text that the schema refuses. */
const boundOf = (sent: WireTimestamp | undefined): string | undefined => {
  if (!sent) return undefined;
  const second = new Date(Number(sent.seconds ?? 0) * 1_000);
  if (Number.isNaN(second.getTime())) return '';
  return second.toISOString().replace('.000Z', `.${String(sent.nanos ?? 0).padStart(9, '0')}Z`);
};

const pipe = <Wire>(transform: (sent: Wire) => object): PipeTransform<Wire, object> => ({ transform });

/** Convert the messages to what REST takes, so that the same schemas parse them next. */
export const placeOrderFromWire = pipe(placeOrderBody);
export const listOrdersFromWire = pipe((sent: WireListOrders) =>
  given({
    ...sent,
    status: fromEnum('ORDER_STATUS_', sent.status),
    created_from: boundOf(sent.created_from),
    created_before: boundOf(sent.created_before),
  }),
);

/** The message `Order`. */
export const orderToWire = ({ metadata, created_at, updated_at, personal, ...order }: OrderInFull): object => ({
  ...order,
  status: toEnum('ORDER_STATUS_', order.status),
  ...(personal && { personal: toEnum('PERSONAL_DATA_', personal) }),
  adjustments: order.adjustments.map((it) => ({ ...it, kind: toEnum('ADJUSTMENT_KIND_', it.kind) })),
  metadata: structOf(metadata),
  create_time: timestampOf(created_at),
  update_time: timestampOf(updated_at),
});

/** The message `OrderEvent`. */
export const eventToWire = ({ data, at, ...event }: z.output<typeof orderEvent>): object => ({
  ...event,
  status: toEnum('ORDER_STATUS_', event.status),
  data: structOf(data),
  event_time: timestampOf(at),
});
