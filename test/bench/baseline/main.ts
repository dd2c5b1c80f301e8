import 'reflect-metadata';
import { Module, type DynamicModule } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { TypeOrmModule } from '@nestjs/typeorm';
import { carryOut, type ShopCommands } from '../commands.js';
import { OrderController, ShelfController } from './controllers.js';
import { IdempotencyKey, Order, OrderLine, Outbox, Product } from './entities.js';
import { OrderService } from './order.service.js';

/** Room for a thousand products in one request. */
const bodyLimit = 1_048_576;

/**
 * On Fastify, which needs less CPU than Express and is what this project uses. The pool has the driver's default size, ten
 * connections.
 */
@Module({ controllers: [OrderController, ShelfController], providers: [OrderService] })
class BaselineModule {
  static on(url: string): DynamicModule {
    const entities = [Order, OrderLine, Product, IdempotencyKey, Outbox];
    return {
      module: BaselineModule,
      imports: [TypeOrmModule.forRoot({ type: 'postgres', url, entities, synchronize: true })],
    };
  }
}

carryOut({
  listen: async ({ databaseUrl }) => {
    const adapter = new FastifyAdapter({ bodyLimit });
    const app = await NestFactory.create<NestFastifyApplication>(BaselineModule.on(databaseUrl), adapter, {
      logger: ['error', 'warn'],
    });
    await app.listen(0, '127.0.0.1');
    return app.getUrl();
  },
} satisfies ShopCommands);
