import { Inject, Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { z } from 'zod';
import { cacheContract, defaultTenant } from '#contracts';
import { env } from '#config';
import { InjectSql, Sql, databaseFor, type Database } from '#database';
import { Readiness } from '#health';
import { Messenger, address, balancePolicy } from '#messaging';
import { cursorsIn } from '#rest';
import { ProductsAndStock1764000000002 } from '../migrations/1-products-and-stock.js';
import { ProductChanges1764000000003 } from '../migrations/2-product-changes.js';
import { DecidedAnew1764000000045 } from '../migrations/3-decided-anew.js';
import { RefusedWhileHeld1764000000051 } from '../migrations/4-refused-while-held.js';
import { HeldAtOnce1764000000052 } from '../migrations/5-held-at-once.js';
import { ConfirmedInPlace1764000000053 } from '../migrations/6-confirmed-in-place.js';
import { LockedRows1764000000054 } from '../migrations/7-locked-rows.js';
import { MessagingProductCache } from './adapters/messaging-product-cache.js';
import { PostgresProducts } from './adapters/postgres-products.js';
import { PostgresStock } from './adapters/postgres-stock.js';
import { ProductEntity } from './adapters/product.entity.js';
import { InventoryMessages } from './transport/inventory.messages.js';
import { ProductsController } from './transport/products.controller.js';
import { StockController } from './transport/stock.controller.js';
import { AdjustStock, StockAdjustments } from './use-cases/adjust-stock.js';
import { CountStock, StockCounts } from './use-cases/count-stock.js';
import { FindOverdueHolds, OverdueHolds } from './use-cases/find-overdue-holds.js';
import { FinishBranches, PreparedBranches } from './use-cases/finish-branches.js';
import { InvalidateProducts, ProductChanges } from './use-cases/invalidate-products.js';
import { JoinOrders, OrdersServed } from './use-cases/join-orders.js';
import { ListProducts, ProductList } from './use-cases/list-products.js';
import { ListStock, StockList } from './use-cases/list-stock.js';
import { ProductCatalogue, PutProducts } from './use-cases/put-products.js';
import { PurgeRefusals, RefusedReservations } from './use-cases/purge-refusals.js';
import { ProductCache, ProductReader, ReadProduct } from './use-cases/read-product.js';
import { ReadStock, StockLevels } from './use-cases/read-stock.js';
import { ReserveStock, StockReservations } from './use-cases/reserve-stock.js';
import { SettleStock, StockSettlements } from './use-cases/settle-stock.js';
import { StockDemoProducts } from './use-cases/stock-demo-products.js';

/** The environment variables of inventory. */
export const inventoryEnvironment = {
  INVENTORY_DATABASE_URL: env.postgresUrl,
  CACHE_AT: address,
  CACHE_BALANCE: balancePolicy,
  DEMO_PRODUCTS: env.flag,
};

/** The database of inventory. */
export const inventoryDatabase = (url: string): Database => ({
  name: 'inventory',
  url,
  schema: 'inventory',
  entities: [ProductEntity],
  migrations: [
    ProductsAndStock1764000000002,
    ProductChanges1764000000003,
    DecidedAnew1764000000045,
    RefusedWhileHeld1764000000051,
    HeldAtOnce1764000000052,
    ConfirmedInPlace1764000000053,
    LockedRows1764000000054,
  ],
});

type InventorySettings = z.output<z.ZodObject<typeof inventoryEnvironment>>;

const demoRequested = Symbol('demo products requested');

/** Products, prices and stock. */
@Module({})
export class InventoryModule implements OnModuleInit {
  constructor(
    @Inject(demoRequested) private readonly demo: boolean,
    private readonly stockDemoProducts: StockDemoProducts,
    @InjectSql('inventory') private readonly sql: Sql,
    private readonly readiness: Readiness,
    private readonly finishBranches: FinishBranches,
  ) {}

  async onModuleInit(): Promise<void> {
    this.readiness.add('inventory-database', () => this.sql.condition());
    this.readiness.add('inventory-branches', () => this.finishBranches.condition());
    if (this.demo) await this.stockDemoProducts.execute(defaultTenant);
  }

  static register(options: InventorySettings): DynamicModule {
    return {
      module: InventoryModule,
      imports: [
        databaseFor(inventoryDatabase(options.INVENTORY_DATABASE_URL)),
        TypeOrmModule.forFeature([ProductEntity], 'inventory'),
      ],
      controllers: [ProductsController, StockController, InventoryMessages],
      providers: [
        ...[
          AdjustStock,
          CountStock,
          FindOverdueHolds,
          FinishBranches,
          InvalidateProducts,
          JoinOrders,
          ListProducts,
          ListStock,
          PurgeRefusals,
          PutProducts,
        ],
        ...[ReadProduct, ReadStock, ReserveStock, SettleStock],
        ...[PostgresStock, PostgresProducts],
        ...[
          OrdersServed,
          OverdueHolds,
          PreparedBranches,
          RefusedReservations,
          StockAdjustments,
          StockCounts,
          StockLevels,
          StockList,
          StockReservations,
          StockSettlements,
        ].map((port) => ({
          provide: port,
          useExisting: PostgresStock,
        })),
        ...[ProductCatalogue, ProductChanges, ProductList, ProductReader].map((port) => ({
          provide: port,
          useExisting: PostgresProducts,
        })),
        {
          provide: ProductCache,
          inject: [Messenger],
          useFactory: (messenger: Messenger) =>
            new MessagingProductCache(
              messenger.clientFor(cacheContract, options.CACHE_AT, { balance: options.CACHE_BALANCE }),
            ),
        },
        cursorsIn('inventory', 'inventory'),
        StockDemoProducts,
        { provide: demoRequested, useValue: options.DEMO_PRODUCTS },
      ],
    };
  }
}
