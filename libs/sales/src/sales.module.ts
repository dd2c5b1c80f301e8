import { Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import type { z } from 'zod';
import { env } from '#config';
import { inventoryContract, orderContract } from '#contracts';
import { InjectSql, Sql, databaseFor, type Database } from '#database';
import { EventBus, EventsModule, checkpointsIn, eventBus } from '#events';
import { Readiness } from '#health';
import { Messenger, address, balancePolicy } from '#messaging';
import { cursorsIn } from '#rest';
import { Sales1764000000007 } from '../migrations/1-sales.js';
import { TakenOver1764000000048 } from '../migrations/2-taken-over.js';
import { MessagingOrderLog } from './adapters/messaging-order-log.js';
import { MessagingStock } from './adapters/messaging-stock.js';
import { PostgresSales } from './adapters/postgres-sales.js';
import { SalesController } from './transport/sales.controller.js';
import { FollowOrders, OrderLog, Views } from './use-cases/follow-orders.js';
import { ReadSales, SalesReader, StockLookup } from './use-cases/read-sales.js';
import { RebuildSales, RebuildableViews } from './use-cases/rebuild-sales.js';

/** The environment variables of sales. */
export const salesEnvironment = {
  SALES_DATABASE_URL: env.postgresUrl,
  ORDER_AT: address,
  ORDER_BALANCE: balancePolicy,
  INVENTORY_AT: address,
  INVENTORY_BALANCE: balancePolicy,
  EVENTS_AT: eventBus,
};

/** The database of sales. */
export const salesDatabase = (url: string): Database => ({
  name: 'sales',
  url,
  schema: 'sales',
  entities: [],
  migrations: [Sales1764000000007, TakenOver1764000000048],
});

type SalesSettings = z.output<z.ZodObject<typeof salesEnvironment>>;

/** Units sold by product and day, and an estimate of how long the stock will last; built from the events of orders. */
@Module({})
export class SalesModule implements OnModuleInit {
  constructor(
    @InjectSql('sales') private readonly sql: Sql,
    private readonly readiness: Readiness,
  ) {}

  onModuleInit(): void {
    this.readiness.add('sales-database', () => this.sql.condition());
  }

  static register(options: SalesSettings): DynamicModule {
    return {
      module: SalesModule,
      imports: [EventsModule, databaseFor(salesDatabase(options.SALES_DATABASE_URL))],
      controllers: [SalesController],
      providers: [
        ...[FollowOrders, ReadSales, RebuildSales, PostgresSales],
        ...[RebuildableViews, SalesReader, Views].map((port) => ({ provide: port, useExisting: PostgresSales })),
        checkpointsIn('sales', 'sales'),
        {
          provide: OrderLog,
          inject: [Messenger, EventBus],
          useFactory: (messenger: Messenger, bus: EventBus) =>
            new MessagingOrderLog(
              messenger.clientFor(orderContract, options.ORDER_AT, { balance: options.ORDER_BALANCE }),
              bus,
              options.EVENTS_AT,
            ),
        },
        {
          provide: StockLookup,
          inject: [Messenger],
          useFactory: (messenger: Messenger) =>
            new MessagingStock(
              messenger.clientFor(inventoryContract, options.INVENTORY_AT, { balance: options.INVENTORY_BALANCE }),
            ),
        },
        cursorsIn('sales', 'sales'),
      ],
    };
  }
}
