import { ConflictException, Injectable, UnprocessableEntityException } from '@nestjs/common';
import { DataSource, In } from 'typeorm';
import { IdempotencyKey, Order, OrderLine, Outbox, Product } from './entities.js';
import type { PlaceOrder } from './requests.js';

/** The textbook way: one transaction for each order, products locked in order, entities saved through repositories. */
@Injectable()
export class OrderService {
  constructor(private readonly dataSource: DataSource) {}

  place(request: PlaceOrder, key: string): Promise<object> {
    return this.dataSource.transaction(async (manager) => {
      const earlier = await manager.getRepository(IdempotencyKey).findOneBy({ key });
      if (earlier) return earlier.response;

      const productIds = [...new Set(request.lines.map((it) => it.product_id))];
      const products = await manager.getRepository(Product).find({
        where: { id: In(productIds) },
        order: { id: 'ASC' },
        lock: { mode: 'pessimistic_write' },
      });
      const byId = new Map(products.map((it) => [it.id, it]));

      const order = new Order();
      order.customerId = request.customer_id;
      order.status = 'confirmed';
      order.totalMinor = 0;
      order.lines = request.lines.map(({ product_id, quantity, unit_price_minor }) => {
        const product = byId.get(product_id);
        if (!product) throw new UnprocessableEntityException(`There is no product ${product_id}`);
        if (product.onHand - product.reserved < quantity) throw new ConflictException(`${product_id} is out of stock`);
        product.reserved += quantity;
        const line = new OrderLine();
        Object.assign(line, { productId: product_id, name: product.name, quantity });
        line.unitPriceMinor = unit_price_minor ?? product.unitPriceMinor;
        order.currency = product.currency;
        order.totalMinor += line.unitPriceMinor * quantity;
        return line;
      });

      await manager.getRepository(Product).save(products);
      await manager.getRepository(Order).save(order);
      const response = answerOf(order);
      await manager.getRepository(IdempotencyKey).save({ key, response });
      await manager.getRepository(Outbox).save({ type: 'order-placed', payload: response });
      return response;
    });
  }

  find(id: string): Promise<Order | null> {
    return this.dataSource.getRepository(Order).findOne({ where: { id }, relations: { lines: true } });
  }
}

export const answerOf = (order: Order): object => ({
  order_id: order.id,
  status: order.status,
  customer_id: order.customerId,
  currency: order.currency,
  total_minor: order.totalMinor,
  lines: order.lines.map(({ productId, name, quantity, unitPriceMinor }) => ({
    product_id: productId,
    name,
    quantity,
    unit_price_minor: unitPriceMinor,
  })),
  created_at: order.createdAt,
});
