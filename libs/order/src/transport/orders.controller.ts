import { Body, Controller, Get, HttpCode, Param, Post, Query, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import {
  cancelOrderRequest,
  fulfilOrderRequest,
  historyQuery,
  limits,
  order,
  orderHistory,
  orderIdParameter,
  orderInFull,
  orderListQuery,
  orderPage,
  placeOrderRequest,
  returnOrderRequest,
  type OrderInFull,
} from '#contracts';
import {
  CalledBy,
  Cursors,
  Endpoint,
  type EndpointOptions,
  IdempotencyKey,
  IfMatch,
  etagOf,
  pageLimit,
  valid,
} from '#rest';
import type { Caller } from '#security';
import { cancelOrder, cancelRemaining, fulfilOrder, returnGoods, type Order } from '../domain/order.js';
import { ChangeOrder, type ChangeRequest, type Decide } from '../use-cases/change-order.js';
import { KeepPersonalData } from '../use-cases/keep-personal-data.js';
import { PlaceOrder } from '../use-cases/place-order.js';
import { ReadOrders } from '../use-cases/read-orders.js';
import {
  historyCursor,
  historyCursorOf,
  keyedChange,
  mayReadPersonalData,
  orderCursor,
  orderFilterIn,
  orderIdIn,
  refuseOwnPrices,
} from './requests.js';

const taggedHeaders = { ETag: 'The version of the order, for `If-Match`' };
const placedHeaders = { Location: 'The address of the order', ...taggedHeaders };

/** What both addresses of placing an order have in common. */
const placing = {
  replies: { 201: { schema: order, description: 'The new order', headers: placedHeaders } },
  errors: [
    'out-of-stock',
    'price-changed',
    'unknown-product',
    'currency-mismatch',
    'personal-data-not-kept',
    'idempotency-key-reused',
    'request-in-progress',
    'data-key-missing',
  ],
  idempotencyKey: 'optional',
  isCalledDirectly: true,
} satisfies Partial<EndpointOptions>;

/** Who asks for a change, under which key, and on which condition. */
interface Asked extends Pick<ChangeRequest, 'expectedVersions'> {
  caller: Caller;
  idempotencyKey: string | undefined;
}

@ApiTags('orders')
@Controller()
export class OrdersController {
  constructor(
    private readonly placeOrder: PlaceOrder,
    private readonly changeOrder: ChangeOrder,
    private readonly readOrders: ReadOrders,
    private readonly personalData: KeepPersonalData,
    private readonly cursors: Cursors,
  ) {}

  @Post('orders')
  @Endpoint({
    scope: 'orders:write',
    operationId: 'placeOrder',
    summary: 'Place an order',
    description:
      'Reserves stock for all lines or for none. With an `Idempotency-Key` you can repeat the request safely: ' +
      'you get the same order again, with `Idempotent-Replayed: true`. The key of an order is kept forever; ' +
      'that of a refusal for lack of stock is kept for seven days.',
    ...placing,
  })
  async place(
    @Body(valid(placeOrderRequest)) body: z.output<typeof placeOrderRequest>,
    @IdempotencyKey() idempotencyKey: string | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<Order> {
    refuseOwnPrices(body, caller);
    const result = await this.placeOrder.execute(caller.tenant, caller.account, body, idempotencyKey ?? null, {
      isGone: () => reply.raw.destroyed,
    });
    if (result.replayed) reply.header('Idempotent-Replayed', 'true');
    if ('refusal' in result) throw result.refusal;
    reply.header('Location', `/orders/${result.order.order_id}`);
    return tagged(result.order, reply);
  }

  @Post('order')
  @Endpoint({
    scope: 'orders:write',
    operationId: 'placeOrderByAlias',
    summary: 'Place an order (alias of POST /orders)',
    ...placing,
  })
  placeByAlias(
    @Body(valid(placeOrderRequest)) body: z.output<typeof placeOrderRequest>,
    @IdempotencyKey() idempotencyKey: string | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<Order> {
    return this.place(body, idempotencyKey, reply, caller);
  }

  @Get('orders/:id')
  @Endpoint({
    scope: 'orders:read',
    operationId: 'getOrder',
    summary: 'Read an order',
    description:
      'Includes the contact and the shipping address, if the order has any and the caller has the scope ' +
      '`personal:read` as well.',
    replies: { 200: { schema: orderInFull, description: 'The order', headers: taggedHeaders } },
    errors: ['order-not-found', 'data-key-missing'],
    isCalledDirectly: true,
  })
  async get(
    @Param('id', valid(orderIdParameter)) id: string,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<OrderInFull> {
    if (!mayReadPersonalData(caller)) return tagged(await this.readOrders.one(caller.tenant, orderIdIn(id)), reply);
    const found = await this.personalData.one(caller.tenant, orderIdIn(id));
    if (found.personal) reply.header('Cache-Control', 'no-store');
    return tagged(found, reply);
  }

  @Get('orders')
  @Endpoint({
    scope: 'orders:read',
    operationId: 'listOrders',
    summary: 'List orders, newest first',
    description:
      'A limit above the maximum is lowered to it, and a page of large orders has fewer entries. An order that ' +
      'existed when paging began is seen exactly once.',
    replies: { 200: { schema: orderPage, description: 'One page of orders' } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(orderListQuery)) query: z.output<typeof orderListQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof orderPage>> {
    const before = this.cursors.read(query.cursor, orderCursor)?.before;
    const filter = orderFilterIn(query);
    const { data, last } = await this.readOrders.list(caller.tenant, filter, before, pageLimit(query.limit));
    return { data, next_cursor: last === null ? null : this.cursors.write({ before: last }) };
  }

  @Get('orders/:id/history')
  @Endpoint({
    scope: 'orders:read',
    operationId: 'getOrderHistory',
    summary: 'Read the history of an order, oldest entry first',
    description: 'Most histories fit on one page. A page of large entries has fewer of them.',
    replies: {
      200: { schema: orderHistory, description: 'One page of entries, one for each version of the order' },
    },
    errors: ['order-not-found', 'invalid-cursor'],
  })
  async history(
    @Param('id', valid(orderIdParameter)) id: string,
    @Query(valid(historyQuery)) { limit, cursor }: z.output<typeof historyQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof orderHistory>> {
    const after = this.cursors.read(cursor, historyCursor)?.after ?? 0;
    const most = limit === undefined ? limits.page : pageLimit(limit);
    const { data, last } = await this.readOrders.history(caller.tenant, orderIdIn(id), after, most);
    return { data, next_cursor: historyCursorOf(this.cursors, last) };
  }

  @Post('orders/:id/cancel')
  @HttpCode(200)
  @Endpoint({
    scope: 'orders:write',
    operationId: 'cancelOrder',
    summary: 'Cancel an order, or what was not handed over yet',
    description:
      'Its stock is available again a moment later. If the order is already cancelled, it is returned ' +
      'unchanged. What was paid for it is refunded automatically. If part of it was handed over and you cancel ' +
      'what remains, nothing is refunded automatically: request a refund, as for a return, even if the payment ' +
      'is not captured yet.',
    replies: { 200: { schema: order, description: 'The order after the cancellation', headers: taggedHeaders } },
    errors: ['order-not-found', 'illegal-transition', 'precondition-failed', 'idempotency-key-reused'],
    idempotencyKey: 'optional',
  })
  cancel(
    @Param('id', valid(orderIdParameter)) id: string,
    @Body(valid(cancelOrderRequest)) { remaining, reason }: z.output<typeof cancelOrderRequest>,
    @IdempotencyKey() idempotencyKey: string | undefined,
    @IfMatch() expectedVersions: readonly number[] | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<Order> {
    const command = { orderId: orderIdIn(id), remaining, reason };
    const decide = remaining ? cancelRemaining : cancelOrder;
    const asked = { caller, idempotencyKey, expectedVersions };
    return this.change('cancel', command, asked, reply, (it, at) => decide(it, reason, at));
  }

  @Post('orders/:id/fulfil')
  @HttpCode(200)
  @Endpoint({
    scope: 'orders:write',
    operationId: 'fulfilOrder',
    summary: 'Mark an order, or some of its units, as handed over',
    description:
      'Without lines, everything that remains is handed over. If the order is already handed over, it is ' +
      'returned unchanged, and a `reference` is not kept.',
    replies: { 200: { schema: order, description: 'The order after the hand-over', headers: taggedHeaders } },
    errors: ['order-not-found', 'illegal-transition', 'precondition-failed', 'idempotency-key-reused'],
    idempotencyKey: 'optional',
  })
  fulfil(
    @Param('id', valid(orderIdParameter)) id: string,
    @Body(valid(fulfilOrderRequest)) { lines, reference }: z.output<typeof fulfilOrderRequest>,
    @IdempotencyKey() idempotencyKey: string | undefined,
    @IfMatch() expectedVersions: readonly number[] | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<Order> {
    const command = { orderId: orderIdIn(id), lines, reference };
    const asked = { caller, idempotencyKey, expectedVersions };
    return this.change('fulfil', command, asked, reply, (it, at) => fulfilOrder(it, lines, at, reference));
  }

  @Post('orders/:id/returns')
  @Endpoint({
    scope: 'orders:write',
    operationId: 'returnGoods',
    summary: 'Return goods',
    description:
      'Credits the goods. This does not refund money; that is a refund. All returns of an order that is paid ' +
      'through Cleave together credit at most its total.',
    replies: { 201: { schema: order, description: 'The order after the return', headers: taggedHeaders } },
    errors: [
      'order-not-found',
      'illegal-transition',
      'credit-exceeds-total',
      'precondition-failed',
      'idempotency-key-reused',
    ],
    idempotencyKey: 'required',
  })
  return(
    @Param('id', valid(orderIdParameter)) id: string,
    @Body(valid(returnOrderRequest)) body: z.output<typeof returnOrderRequest>,
    @IdempotencyKey({ required: true }) idempotencyKey: string,
    @IfMatch() expectedVersions: readonly number[] | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<Order> {
    const command = { orderId: orderIdIn(id), ...body };
    const asked = { caller, idempotencyKey, expectedVersions };
    return this.change('return', command, asked, reply, (it, at) => returnGoods(it, body, at));
  }

  private async change(
    operation: string,
    command: { orderId: string },
    { caller, idempotencyKey, expectedVersions }: Asked,
    reply: FastifyReply,
    decide: Decide,
  ): Promise<Order> {
    const keyed = idempotencyKey === undefined ? undefined : keyedChange(caller, operation, idempotencyKey, command);
    const request = { tenant: caller.tenant, orderId: command.orderId, expectedVersions, keyed };
    const { order: changed, replayed } = await this.changeOrder.execute(request, decide);
    if (replayed) reply.header('Idempotent-Replayed', 'true');
    return tagged(changed, reply);
  }
}

const tagged = <Told extends Order>(it: Told, reply: FastifyReply): Told => {
  reply.header('ETag', etagOf(it.version));
  return it;
};
