import { Body, Controller, Get, HttpCode, Param, Post, Put, Query, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import {
  adjustStockRequest,
  productIdParameter,
  putStockBatchRequest,
  putStockRequest,
  stock,
  stockBatch,
  stockListQuery,
  stockPage,
  type Stock,
} from '#contracts';
import { CalledBy, Cursors, Endpoint, IdempotencyKey, pageLimit, valid } from '#rest';
import type { Caller } from '#security';
import { AdjustStock } from '../use-cases/adjust-stock.js';
import { CountStock } from '../use-cases/count-stock.js';
import { ListStock } from '../use-cases/list-stock.js';
import { ReadStock } from '../use-cases/read-stock.js';

const cursor = z.object({ stock_after: z.string() });

@ApiTags('stock')
@Controller('stock')
export class StockController {
  constructor(
    private readonly countStock: CountStock,
    private readonly adjustStock: AdjustStock,
    private readonly readStock: ReadStock,
    private readonly listStock: ListStock,
    private readonly cursors: Cursors,
  ) {}

  @Put(':product_id')
  @Endpoint({
    scope: 'stock:write',
    operationId: 'putStock',
    summary: 'Set the counted stock of a product',
    description:
      'Count everything that lies on the shelf, also what is reserved for orders: a count below that is refused. If goods ' +
      'may have been handed over or returned since they were counted, adjust the stock by the difference instead.',
    replies: { 200: { schema: stock, description: 'The stock after the count' } },
    errors: ['product-not-found', 'stock-below-reserved'],
  })
  async put(
    @Param('product_id', valid(productIdParameter)) productId: string,
    @Body(valid(putStockRequest)) body: z.output<typeof putStockRequest>,
    @CalledBy() caller: Caller,
  ): Promise<Stock> {
    const [counted] = await this.countStock.execute(caller.tenant, [{ product_id: productId, ...body }]);
    return counted!;
  }

  @Get(':product_id')
  @Endpoint({
    scope: 'stock:read',
    operationId: 'getStock',
    summary: 'Read the stock of a product',
    replies: { 200: { schema: stock, description: 'The present stock' } },
    errors: ['product-not-found'],
  })
  get(@Param('product_id', valid(productIdParameter)) productId: string, @CalledBy() caller: Caller): Promise<Stock> {
    return this.readStock.execute(caller.tenant, productId);
  }

  @Get()
  @Endpoint({
    scope: 'stock:read',
    operationId: 'listStock',
    summary: 'List the stock of all products, in the order of their ids',
    description:
      'Each page shows the stock at the moment it is read. Names and prices are in `GET /products`, in the same order.',
    replies: { 200: { schema: stockPage, description: 'One page of stock, an entry for each product' } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(stockListQuery)) query: z.output<typeof stockListQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof stockPage>> {
    const after = this.cursors.read(query.cursor, cursor)?.stock_after;
    const { data, last } = await this.listStock.execute(caller.tenant, after, pageLimit(query.limit));
    return { data, next_cursor: last === null ? null : this.cursors.write({ stock_after: last }) };
  }

  @Post(':product_id/adjustments')
  @HttpCode(200)
  @Endpoint({
    scope: 'stock:write',
    operationId: 'adjustStock',
    summary: 'Adjust the stock of a product by a difference',
    replies: { 200: { schema: stock, description: 'The stock after the adjustment' } },
    errors: ['product-not-found', 'stock-below-reserved', 'idempotency-key-reused'],
    idempotencyKey: 'required',
  })
  async adjust(
    @Param('product_id', valid(productIdParameter)) productId: string,
    @IdempotencyKey({ required: true }) idempotencyKey: string,
    @Body(valid(adjustStockRequest)) { delta, reason }: z.output<typeof adjustStockRequest>,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<Stock> {
    const adjustment = { productId, delta, reason, account: caller.account, idempotencyKey };
    const { stock: adjusted, replayed } = await this.adjustStock.execute(caller.tenant, adjustment);
    if (replayed) reply.header('Idempotent-Replayed', 'true');
    return adjusted;
  }

  @Post('batch')
  @HttpCode(200)
  @Endpoint({
    scope: 'stock:write',
    operationId: 'putStockBatch',
    summary: 'Set the counted stock of many products, all or none',
    replies: { 200: { schema: stockBatch, description: 'The stocks, in the order of the request' } },
    errors: ['product-not-found', 'stock-below-reserved'],
  })
  async putBatch(
    @Body(valid(putStockBatchRequest)) body: z.output<typeof putStockBatchRequest>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof stockBatch>> {
    return { data: await this.countStock.execute(caller.tenant, body.stock) };
  }
}
