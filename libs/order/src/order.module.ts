import { Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { z } from 'zod';
import { inventoryContract } from '#contracts';
import { env } from '#config';
import { InjectSql, Sql, cursorSecret, databaseFor, sqlToken } from '#database';
import { Readiness } from '#health';
import { Messenger, address, balancePolicy } from '#messaging';
import { Cursors } from '#rest';
import { Orders1764000000002 } from '../migrations/1-orders.js';
import { MessagingStock } from './adapters/messaging-stock.js';
import { EventEntity, OrderEntity } from './adapters/order.entity.js';
import { PostgresOrders } from './adapters/postgres-orders.js';
import { PostgresOutbox } from './adapters/postgres-outbox.js';
import { EventsController } from './transport/events.controller.js';
import { OrdersController } from './transport/orders.controller.js';
import { ChangeOrder, ChangeableOrders } from './use-cases/change-order.js';
import { PlaceOrder } from './use-cases/place-order.js';
import { KeptRefusals, PurgeRefusals } from './use-cases/purge-refusals.js';
import { EventFeed, ReadEvents } from './use-cases/read-events.js';
import { OrderReader, ReadOrders } from './use-cases/read-orders.js';
import { Outbox, RelayOutbox, StockSettler } from './use-cases/relay-outbox.js';
import { PlacedOrders, ReserveAndRecord, StockHolder } from './use-cases/reserve-and-record.js';
import { OverdueStock, SweepHolds, VoidOrders, sweepInterval } from './use-cases/sweep-holds.js';

/** What order reads from the environment. */
export const orderEnvironment = {
  ORDER_DATABASE_URL: env.postgresUrl,
  INVENTORY_AT: address,
  INVENTORY_BALANCE: balancePolicy,
  ORDER_HOLD_MS: env.milliseconds(600_000),
  ORDER_SWEEP_MS: env.milliseconds(10_000),
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
          entities: [OrderEntity, EventEntity],
          migrations: [Orders1764000000002],
        }),
        TypeOrmModule.forFeature([OrderEntity, EventEntity], 'order'),
      ],
      controllers: [OrdersController, EventsController],
      providers: [
        ...[ChangeOrder, PlaceOrder, PurgeRefusals, ReadEvents, ReadOrders],
        ...[RelayOutbox, ReserveAndRecord, SweepHolds],
        ...[PostgresOrders, PostgresOutbox],
        ...[ChangeableOrders, KeptRefusals, OrderReader, PlacedOrders, VoidOrders].map((port) => ({
          provide: port,
          useExisting: PostgresOrders,
        })),
        ...[EventFeed, Outbox].map((port) => ({ provide: port, useExisting: PostgresOutbox })),
        { provide: sweepInterval, useValue: options.ORDER_SWEEP_MS },
        {
          provide: MessagingStock,
          inject: [Messenger],
          useFactory: (messenger: Messenger) =>
            new MessagingStock(
              messenger.clientFor(inventoryContract, options.INVENTORY_AT, { balance: options.INVENTORY_BALANCE }),
              options.ORDER_HOLD_MS,
            ),
        },
        ...[OverdueStock, StockHolder, StockSettler].map((port) => ({ provide: port, useExisting: MessagingStock })),
        {
          provide: Cursors,
          inject: [sqlToken('order')],
          useFactory: async (sql: Sql) => new Cursors(await cursorSecret(sql, 'orders')),
        },
      ],
    };
  }
}
