import { once } from 'node:events';
import type { Metadata, ServerUnaryCall, ServerWritableStream } from '@grpc/grpc-js';
import { Controller, UseFilters, createParamDecorator, type ExecutionContext } from '@nestjs/common';
import { Ctx, GrpcMethod, Payload } from '@nestjs/microservices';
import { from, type Observable } from 'rxjs';
import { z } from 'zod';
import { limits, orderListQuery, placeOrderRequest, wholeNumber } from '#contracts';
import { CalledBy, StatusFilter } from '#grpc';
import { Cursors, idempotencyKeyIn, valid } from '#rest';
import type { Caller } from '#security';
import type { Order } from '../domain/order.js';
import { KeepPersonalData } from '../use-cases/keep-personal-data.js';
import { PlaceOrder } from '../use-cases/place-order.js';
import { ReadEvents, type OrderEvent } from '../use-cases/read-events.js';
import { ReadOrders } from '../use-cases/read-orders.js';
import { eventDocument, positionIn } from './event-documents.js';
import { mayReadPersonalData, orderCursor, orderFilterIn, orderIdIn, refuseOwnPrices } from './requests.js';
import { eventToWire, listOrdersFromWire, orderToWire, placeOrderFromWire } from './wire-orders.js';

const service = 'Orders';

const getOrderRequest = z.strictObject({ order_id: z.string().default('') });
const listOrdersRequest = orderListQuery.omit({ limit: true, cursor: true }).extend({
  page_size: wholeNumber(0, 2 ** 31 - 1).default(0),
  page_token: orderListQuery.shape.cursor,
});
const watchEventsRequest = z.strictObject({ after: orderListQuery.shape.cursor });

/** By default, clients accept messages of at most 4 MiB. */
const pageBytes = 3_000_000;

/** The call object of grpc-js. */
const Call = createParamDecorator((_: undefined, context: ExecutionContext) => context.getArgByIndex<unknown>(2));

/** The gRPC API for other programs. It uses the use cases and schemas of REST; only the wire format differs. */
@UseFilters(StatusFilter)
@Controller()
export class OrdersGrpc {
  constructor(
    private readonly placeOrder: PlaceOrder,
    private readonly readOrders: ReadOrders,
    private readonly readEvents: ReadEvents,
    private readonly personalData: KeepPersonalData,
    private readonly cursors: Cursors,
  ) {}

  @GrpcMethod(service, 'PlaceOrder')
  async place(
    @Payload(placeOrderFromWire, valid(placeOrderRequest)) request: z.output<typeof placeOrderRequest>,
    @Ctx() metadata: Metadata,
    @Call() call: ServerUnaryCall<unknown, unknown>,
    @CalledBy() caller: Caller,
  ): Promise<object> {
    const [field, ...others] = metadata.get('idempotency-key').map(String);
    const key = field === undefined ? null : idempotencyKeyIn(others.length > 0 ? undefined : field);
    refuseOwnPrices(request, caller);
    const patience = { deadlineMs: Number(call.getDeadline()), isGone: () => call.cancelled };
    const result = await this.placeOrder.execute(caller.tenant, caller.account, request, key, patience);
    if (result.replayed) call.sendMetadata(await metadataOf({ 'idempotent-replayed': 'true' }));
    if ('refusal' in result) throw result.refusal;
    return orderToWire(result.order);
  }

  @GrpcMethod(service, 'GetOrder')
  async get(
    @Payload(valid(getOrderRequest)) { order_id }: z.output<typeof getOrderRequest>,
    @CalledBy() caller: Caller,
  ): Promise<object> {
    const orders = mayReadPersonalData(caller) ? this.personalData : this.readOrders;
    return orderToWire(await orders.one(caller.tenant, orderIdIn(order_id)));
  }

  @GrpcMethod(service, 'ListOrders')
  async list(
    @Payload(listOrdersFromWire, valid(listOrdersRequest)) request: z.output<typeof listOrdersRequest>,
    @CalledBy() caller: Caller,
  ): Promise<object> {
    const { page_size, page_token, ...query } = request;
    const before = this.cursors.read(page_token || undefined, orderCursor)?.before;
    const limit = Math.min(page_size || limits.defaultPage, limits.page);
    const { data, last } = await this.readOrders.list(caller.tenant, orderFilterIn(query), before, limit);
    const orders = withinBytes(data);
    const next = orders.length < data.length ? orders.at(-1)!.order_id : last;
    return {
      orders: orders.map(orderToWire),
      next_page_token: next === null ? '' : this.cursors.write({ before: next }),
    };
  }

  @GrpcMethod(service, 'WatchEvents')
  async watch(
    @Payload(valid(watchEventsRequest)) { after }: z.output<typeof watchEventsRequest>,
    @Call() call: ServerWritableStream<unknown, unknown>,
    @CalledBy() caller: Caller,
  ): Promise<Observable<object>> {
    const opening = await metadataOf({});
    const gone = goneSignal(call);
    const events = this.readEvents.follow(caller.tenant, positionIn(this.cursors, after || undefined), gone);
    // So that the caller knows that the stream is open, even if nothing happens for long.
    call.sendMetadata(opening);
    return from(this.told(events, call, gone));
  }

  /** Back-pressure: Nest buffers what the caller has not read yet, so reading pauses until the call has drained. */
  private async *told(
    events: AsyncIterable<OrderEvent[]>,
    call: ServerWritableStream<unknown, unknown>,
    gone: AbortSignal,
  ): AsyncGenerator<object, void> {
    for await (const some of events)
      for (const event of some) {
        if (call.writableNeedDrain) await once(call, 'drain', { signal: gone });
        yield eventToWire(eventDocument(this.cursors, event));
      }
  }
}

/** The library is loaded here, because processes that do not serve gRPC load this file as well. */
const metadataOf = async (entries: Record<string, string>): Promise<Metadata> => {
  const { Metadata: Library } = await import('@grpc/grpc-js');
  const metadata = new Library();
  for (const [name, value] of Object.entries(entries)) metadata.set(name, value);
  return metadata;
};

/** The first orders that fit into one message, but at least one. */
const withinBytes = (orders: Order[]): Order[] => {
  let bytes = 0;
  const tooMuch = orders.findIndex((it) => (bytes += mostBytes(it)) > pageBytes);
  return tooMuch < 0 ? orders : orders.slice(0, Math.max(1, tooMuch));
};

/** JSON is larger, except for metadata: a digit and a comma in a list take eleven bytes in a `google.protobuf.Struct`. */
const mostBytes = (order: Order): number =>
  Buffer.byteLength(JSON.stringify(order)) + 5 * Buffer.byteLength(JSON.stringify(order.metadata));

/** Aborted once the call has ended, for whatever reason. */
const goneSignal = (call: ServerWritableStream<unknown, unknown>): AbortSignal => {
  if (call.cancelled) return AbortSignal.abort();
  const gone = new AbortController();
  call.once('cancelled', () => gone.abort());
  return gone.signal;
};
