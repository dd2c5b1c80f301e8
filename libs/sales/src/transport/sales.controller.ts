import { Controller, Get, HttpCode, Param, Post, Query } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import {
  calendarDay,
  productIdParameter,
  salesPage,
  salesQuery,
  salesView,
  salesViews,
  stockOutlook,
  type SalesView,
  type StockOutlook,
} from '#contracts';
import { CalledBy, Cursors, Endpoint, pageLimit, valid } from '#rest';
import type { Caller } from '#security';
import { ReadSales } from '../use-cases/read-sales.js';
import { RebuildSales } from '../use-cases/rebuild-sales.js';

const cursor = z.object({ day: calendarDay, product_id: z.string(), currency: z.string() });

@ApiTags('sales')
@Controller('sales')
export class SalesController {
  constructor(
    private readonly readSales: ReadSales,
    private readonly rebuildSales: RebuildSales,
    private readonly cursors: Cursors,
  ) {}

  @Get()
  @Endpoint({
    scope: 'sales:read',
    operationId: 'listSales',
    summary: 'List sales by product and day, the latest day first',
    description: 'The figures follow the orders with a short delay.',
    replies: { 200: { schema: salesPage, description: 'One page of sales' } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(salesQuery)) query: z.output<typeof salesQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof salesPage>> {
    const before = this.cursors.read(query.cursor, cursor);
    const filter = { productId: query.product_id, from: query.from, to: query.to };
    const { data, last } = await this.readSales.list(caller.tenant, filter, before, pageLimit(query.limit));
    return { data, next_cursor: last === null ? null : this.cursors.write(last) };
  }

  @Get('outlook/:product_id')
  @Endpoint({
    scope: 'sales:read',
    operationId: 'getStockOutlook',
    summary: 'Estimate when a product will be sold out',
    description: 'Based on what was sold on the 28 full days before today and on what is available now.',
    replies: { 200: { schema: stockOutlook, description: 'The estimate' } },
    errors: ['product-not-found'],
  })
  outlook(
    @Param('product_id', valid(productIdParameter)) productId: string,
    @CalledBy() caller: Caller,
  ): Promise<StockOutlook> {
    return this.readSales.outlook(caller.tenant, productId);
  }

  @Post('views')
  @HttpCode(202)
  @Endpoint({
    scope: 'operator',
    operationId: 'rebuildSales',
    summary: 'Rebuild the sales from the log of orders',
    description:
      'The present figures stay available and up to date until the new view has caught up with them and ' +
      'replaces them. If a rebuild is running already, that one is returned.',
    replies: { 202: { schema: salesView, description: 'The view that is being built' } },
    errors: [],
  })
  rebuild(): Promise<SalesView> {
    return this.rebuildSales.execute();
  }

  @Get('views')
  @Endpoint({
    scope: 'operator',
    operationId: 'listSalesViews',
    summary: 'Read the progress of the sales views, newest first',
    replies: { 200: { schema: salesViews, description: 'The views' } },
    errors: [],
  })
  async views(): Promise<z.output<typeof salesViews>> {
    return { data: await this.rebuildSales.progress() };
  }
}
