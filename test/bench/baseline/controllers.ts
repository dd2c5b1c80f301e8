import {
  BadRequestException,
  Body,
  Controller,
  Get,
  Headers,
  HttpCode,
  Injectable,
  NotFoundException,
  Param,
  Post,
  type PipeTransform,
} from '@nestjs/common';
import { DataSource } from 'typeorm';
import type { z } from 'zod';
import { Product } from './entities.js';
import { OrderService, answerOf } from './order.service.js';
import { placeOrder, putProducts, putStock, type PlaceOrder } from './requests.js';

@Injectable()
class ZodPipe<Schema extends z.ZodType> implements PipeTransform {
  constructor(private readonly schema: Schema) {}

  transform(value: unknown): z.output<Schema> {
    const parsed = this.schema.safeParse(value);
    if (!parsed.success) throw new BadRequestException(parsed.error.issues);
    return parsed.data;
  }
}

@Controller('orders')
export class OrderController {
  constructor(private readonly orders: OrderService) {}

  @Post()
  place(@Body(new ZodPipe(placeOrder)) request: PlaceOrder, @Headers('idempotency-key') key: string): Promise<object> {
    return this.orders.place(request, key);
  }

  @Get(':id')
  async find(@Param('id') id: string): Promise<object> {
    const order = await this.orders.find(id);
    if (!order) throw new NotFoundException();
    return answerOf(order);
  }
}

/** Fills the stock before the benchmark, and reads it afterwards. */
@Controller()
export class ShelfController {
  constructor(private readonly dataSource: DataSource) {}

  @Post('products/batch')
  @HttpCode(200)
  async putProducts(@Body(new ZodPipe(putProducts)) { products }: z.output<typeof putProducts>): Promise<object> {
    const rows = products.map(({ product_id: id, name, unit_price_minor: unitPriceMinor, currency }) => ({
      ...{ id, name, unitPriceMinor, currency },
    }));
    await this.dataSource.getRepository(Product).upsert(rows, ['id']);
    return { data: products };
  }

  @Post('stock/batch')
  @HttpCode(200)
  async putStock(@Body(new ZodPipe(putStock)) { stock }: z.output<typeof putStock>): Promise<object> {
    const products = this.dataSource.getRepository(Product);
    for (const { product_id: id, on_hand: onHand } of stock) await products.update({ id }, { onHand });
    return { data: stock };
  }

  @Get('stock/:id')
  async stock(@Param('id') id: string): Promise<object> {
    const product = await this.dataSource.getRepository(Product).findOneBy({ id });
    if (!product) throw new NotFoundException();
    return { product_id: id, on_hand: product.onHand, reserved: product.reserved };
  }
}
