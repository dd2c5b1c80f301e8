import { Body, Controller, Get, HttpCode, Param, Post, Put, Query, Res } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import {
  product,
  productBatch,
  productListQuery,
  productIdParameter,
  productPage,
  putProductRequest,
  putProductsRequest,
  type Product,
} from '#contracts';
import { CalledBy, Cursors, Endpoint, pageLimit, valid } from '#rest';
import type { Caller } from '#security';
import { ListProducts } from '../use-cases/list-products.js';
import { PutProducts } from '../use-cases/put-products.js';
import { ReadProduct } from '../use-cases/read-product.js';

const cursor = z.object({ after: z.string() });

@ApiTags('products')
@Controller('products')
export class ProductsController {
  constructor(
    private readonly putProducts: PutProducts,
    private readonly readProduct: ReadProduct,
    private readonly listProducts: ListProducts,
    private readonly cursors: Cursors,
  ) {}

  @Put(':id')
  @Endpoint({
    scope: 'products:write',
    operationId: 'putProduct',
    summary: 'Create or change a product',
    replies: {
      200: { schema: product, description: 'The product, which existed already' },
      201: { schema: product, description: 'The new product' },
    },
    errors: [],
  })
  async put(
    @Param('id', valid(productIdParameter)) id: string,
    @Body(valid(putProductRequest)) body: z.output<typeof putProductRequest>,
    @Res({ passthrough: true }) reply: FastifyReply,
    @CalledBy() caller: Caller,
  ): Promise<Product> {
    const [put] = await this.putProducts.execute(caller.tenant, [{ product_id: id, ...body }]);
    reply.status(put!.created ? 201 : 200);
    return put!;
  }

  @Get(':id')
  @Endpoint({
    scope: 'products:read',
    operationId: 'getProduct',
    summary: 'Read a product',
    description: 'Served from the cache: a change is visible after ten seconds at the latest.',
    replies: { 200: { schema: product, description: 'The product' } },
    errors: ['product-not-found'],
  })
  get(@Param('id', valid(productIdParameter)) id: string, @CalledBy() caller: Caller): Promise<Product> {
    return this.readProduct.execute(caller.tenant, id);
  }

  @Get()
  @Endpoint({
    scope: 'products:read',
    operationId: 'listProducts',
    summary: 'List products, in the order of their ids',
    replies: { 200: { schema: productPage, description: 'One page of products' } },
    errors: ['invalid-cursor'],
  })
  async list(
    @Query(valid(productListQuery)) query: z.output<typeof productListQuery>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof productPage>> {
    const after = this.cursors.read(query.cursor, cursor)?.after;
    const { data, last } = await this.listProducts.execute(caller.tenant, after, pageLimit(query.limit));
    return { data, next_cursor: last === null ? null : this.cursors.write({ after: last }) };
  }

  @Post('batch')
  @HttpCode(200)
  @Endpoint({
    scope: 'products:write',
    operationId: 'putProducts',
    summary: 'Create or change many products, all or none',
    replies: { 200: { schema: productBatch, description: 'The products, in the order of the request' } },
    errors: [],
  })
  async putBatch(
    @Body(valid(putProductsRequest)) body: z.output<typeof putProductsRequest>,
    @CalledBy() caller: Caller,
  ): Promise<z.output<typeof productBatch>> {
    return { data: await this.putProducts.execute(caller.tenant, body.products) };
  }
}
