import { Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { z } from 'zod';
import { inventoryContract } from '#contracts';
import { env } from '#config';
import { InjectSql, Sql, cursorSecret, databaseFor, sqlToken } from '#database';
import { Readiness } from '#health';
import { Messenger, address, balancePolicy } from '#messaging';
import { Cursors } from '#rest';
import { Orders1764000000001 } from '../migrations/1-orders.js';
import { MessagingStock } from './adapters/messaging-stock.js';
import { HistoryEntity, OrderEntity } from './adapters/order.entity.js';
import { PostgresOrders } from './adapters/postgres-orders.js';
import { PostgresStockOutbox } from './adapters/postgres-stock-outbox.js';
import { OrdersController } from './transport/orders.controller.js';
import { ChangeOrder, ChangeableOrders } from './use-cases/change-order.js';
import { PlaceOrder, PlacedOrders, StockHolder } from './use-cases/place-order.js';
import { OrderReader, ReadOrders } from './use-cases/read-orders.js';
import { RelayOutbox, StockOutbox, StockSettler } from './use-cases/relay-outbox.js';

/** What order reads from the environment. */
export const orderEnvironment = {
  ORDER_DATABASE_URL: env.postgresUrl,
  INVENTORY_AT: address,
  INVENTORY_BALANCE: balancePolicy,
};

type OrderSettings = z.output<z.ZodObject<typeof orderEnvironment>>;

/** Places and keeps orders. */
@Module({})
export class OrderModule implements OnModuleInit {
  constructor(
    @InjectSql('order') private readonly sql: Sql,
    private readonly readiness: Readiness,
  ) {}

  onModuleInit(): void {
    this.readiness.add('order-database', () => this.sql.ping());
  }

  static register(options: OrderSettings): DynamicModule {
    return {
      module: OrderModule,
      imports: [
        databaseFor({
          name: 'order',
          url: options.ORDER_DATABASE_URL,
          schema: 'orders',
          entities: [OrderEntity, HistoryEntity],
          migrations: [Orders1764000000001],
        }),
        TypeOrmModule.forFeature([OrderEntity, HistoryEntity], 'order'),
      ],
      controllers: [OrdersController],
      providers: [
        ...[ChangeOrder, PlaceOrder, ReadOrders, RelayOutbox],
        ...[PostgresOrders, PostgresStockOutbox],
        ...[PlacedOrders, ChangeableOrders, OrderReader].map((port) => ({
          provide: port,
          useExisting: PostgresOrders,
        })),
        { provide: StockOutbox, useExisting: PostgresStockOutbox },
        {
          provide: MessagingStock,
          inject: [Messenger],
          useFactory: (messenger: Messenger) =>
            new MessagingStock(
              messenger.clientFor(inventoryContract, options.INVENTORY_AT, { balance: options.INVENTORY_BALANCE }),
            ),
        },
        ...[StockHolder, StockSettler].map((port) => ({ provide: port, useExisting: MessagingStock })),
        {
          provide: Cursors,
          inject: [sqlToken('order')],
          useFactory: async (sql: Sql) => new Cursors(await cursorSecret(sql, 'orders')),
        },
      ],
    };
  }
}
