import { randomUUID } from 'node:crypto';
import { Module, type DynamicModule, type OnModuleInit, type Provider } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { z } from 'zod';
import { inventoryContract, paymentContract } from '#contracts';
import { env } from '#config';
import { InjectSql, Sql, databaseFor, firstSetting, sqlToken, type Database } from '#database';
import { EventBus, EventPublisher, EventsModule, checkpointsIn, eventBus } from '#events';
import { grpcAddress, type GrpcListening } from '#grpc';
import { Readiness } from '#health';
import { Messenger, address, balancePolicy } from '#messaging';
import { cursorsIn } from '#rest';
import { MasterKeys, dataKeys } from '#security';
import { Orders1764000000002 } from '../migrations/1-orders.js';
import { Sagas1764000000004 } from '../migrations/2-sagas.js';
import { BranchDecisions1764000000005 } from '../migrations/3-branch-decisions.js';
import { EventLog1764000000006 } from '../migrations/4-event-log.js';
import { LogNumbers1764000000033 } from '../migrations/5-log-numbers.js';
import { PersonalData1764000000035 } from '../migrations/6-personal-data.js';
import { TakenOver1764000000047 } from '../migrations/7-taken-over.js';
import { EventsByTenant1764000000050 } from '../migrations/8-events-by-tenant.js';
import { MessagingPayment } from './adapters/messaging-payment.js';
import { MessagingStock } from './adapters/messaging-stock.js';
import { OrderEntity } from './adapters/order.entity.js';
import { PostgresOrders } from './adapters/postgres-orders.js';
import { PostgresOutbox } from './adapters/postgres-outbox.js';
import { PostgresPersonalData } from './adapters/postgres-personal-data.js';
import { PostgresSagas } from './adapters/postgres-sagas.js';
import { SagaDefinitions, definitions } from './domain/sagas.js';
import { CustomersController } from './transport/customers.controller.js';
import { DeadLettersController } from './transport/dead-letters.controller.js';
import { EventsController } from './transport/events.controller.js';
import { orderDescriptors } from './transport/generated/order-descriptors.js';
import { OrderMessages } from './transport/order.messages.js';
import { OrdersController } from './transport/orders.controller.js';
import { OrdersGrpc } from './transport/orders.grpc.js';
import { PaymentsController } from './transport/payments.controller.js';
import { ChangeOrder, ChangeableOrders } from './use-cases/change-order.js';
import {
  BranchDecisions,
  FinishBranches,
  StockBranches,
  commitProtocol,
  inDoubtAfter,
} from './use-cases/finish-branches.js';
import { CustomerKeys, KeepPersonalData } from './use-cases/keep-personal-data.js';
import { MoneyMoves, MoveMoney } from './use-cases/move-money.js';
import { ObserveSagas, SagaStates } from './use-cases/observe-sagas.js';
import { PlaceOrder } from './use-cases/place-order.js';
import { PublishEvents } from './use-cases/publish-events.js';
import { KeptRefusals, PurgeRefusals } from './use-cases/purge-refusals.js';
import { EventFeed, ReadEvents } from './use-cases/read-events.js';
import { OrderReader, PaymentLookup, ReadOrders } from './use-cases/read-orders.js';
import { Outbox, RelayOutbox, StockSettler } from './use-cases/relay-outbox.js';
import { PlacedOrders, ReserveAndRecord, StockHolder, payWithin } from './use-cases/reserve-and-record.js';
import { ParkedSagas, ResolveDeadLetters } from './use-cases/resolve-dead-letters.js';
import { RotateDataKeys, WrappedKeys } from './use-cases/rotate-data-keys.js';
import { PaymentPerformer, RunSagas, Sagas, longestLeaseMs, sagaLease } from './use-cases/run-sagas.js';
import { CustomerData, ExportAndErasePersonalData } from './use-cases/export-and-erase-personal-data.js';
import { OverdueStock, SweepHolds, VoidOrders, sweepInterval } from './use-cases/sweep-holds.js';

/** The environment variables of order. */
export const orderEnvironment = {
  ORDER_DATABASE_URL: env.postgresUrl,
  INVENTORY_AT: address,
  INVENTORY_BALANCE: balancePolicy,
  PAYMENT_AT: address,
  PAYMENT_BALANCE: balancePolicy,
  ORDER_HOLD_MS: env.milliseconds(600_000),
  ORDER_SWEEP_MS: env.milliseconds(10_000),
  ORDER_PAY_WITHIN_MS: env.milliseconds(900_000),
  ORDER_SAGA_LEASE_MS: env.milliseconds(15_000, longestLeaseMs),
  ORDER_COMMIT: env.choice(['flexible', 'two-phase']),
  ORDER_IN_DOUBT_MS: env.milliseconds(20_000),
  EVENTS_AT: eventBus,
  EVENTS_KEEP_HOURS: env.hours(7 * 24),
  ORDER_GRPC_LISTEN: grpcAddress.optional(),
  DATA_KEYS: dataKeys.optional(),
};

/** The gRPC service of order. */
export const orderGrpc = {
  service: {
    ...{ package: 'cleave.order.v1', name: 'Orders', descriptors: orderDescriptors },
    scopes: {
      PlaceOrder: 'orders:write',
      GetOrder: 'orders:read',
      ListOrders: 'orders:read',
      WatchEvents: 'events:read',
    },
  },
  variable: 'ORDER_GRPC_LISTEN',
} satisfies Omit<GrpcListening, 'at'>;

/** The database of order. */
export const orderDatabase = (url: string): Database => ({
  name: 'order',
  url,
  schema: 'orders',
  entities: [OrderEntity],
  migrations: [
    ...[Orders1764000000002, Sagas1764000000004, BranchDecisions1764000000005, EventLog1764000000006],
    ...[LogNumbers1764000000033, PersonalData1764000000035, TakenOver1764000000047],
    EventsByTenant1764000000050,
  ],
});

type OrderSettings = z.output<z.ZodObject<typeof orderEnvironment>>;

/** Places orders, keeps them, and leads their payments and changes to their end. */
@Module({})
export class OrderModule implements OnModuleInit {
  constructor(
    @InjectSql('order') private readonly sql: Sql,
    private readonly readiness: Readiness,
    private readonly stock: MessagingStock,
    private readonly outbox: PostgresOutbox,
    private readonly dataKeys: RotateDataKeys,
  ) {}

  onModuleInit(): void {
    this.readiness.add('order-database', () => this.sql.condition());
    this.readiness.add('order-inventory', () => this.stock.condition());
    this.readiness.add('order-log', () => this.outbox.condition());
    this.readiness.add('data-keys', () => this.dataKeys.condition());
  }

  static register(options: OrderSettings): DynamicModule {
    return {
      module: OrderModule,
      imports: [
        EventsModule,
        databaseFor(orderDatabase(options.ORDER_DATABASE_URL)),
        TypeOrmModule.forFeature([OrderEntity], 'order'),
      ],
      controllers: [
        ...[OrdersController, PaymentsController, EventsController, DeadLettersController, CustomersController],
        ...[OrderMessages, OrdersGrpc],
      ],
      providers: [
        ...[ChangeOrder, FinishBranches, MoveMoney, ObserveSagas, PlaceOrder, PurgeRefusals, ReadEvents, ReadOrders],
        ...[RelayOutbox, ReserveAndRecord, ResolveDeadLetters, RunSagas, SweepHolds],
        ...[KeepPersonalData, RotateDataKeys, ExportAndErasePersonalData],
        ...[PostgresOrders, PostgresOutbox, PostgresPersonalData, PostgresSagas],
        { provide: MasterKeys, useValue: new MasterKeys(options.DATA_KEYS ?? []) },
        ...[CustomerData, CustomerKeys, WrappedKeys].map((port) => ({
          provide: port,
          useExisting: PostgresPersonalData,
        })),
        ...[MoneyMoves, ParkedSagas, SagaStates, Sagas].map((port) => ({ provide: port, useExisting: PostgresSagas })),
        ...[BranchDecisions, ChangeableOrders, KeptRefusals, OrderReader, PlacedOrders, VoidOrders].map((port) => ({
          provide: port,
          useExisting: PostgresOrders,
        })),
        ...[EventFeed, Outbox].map((port) => ({ provide: port, useExisting: PostgresOutbox })),
        checkpointsIn('order', 'orders'),
        { provide: sweepInterval, useValue: options.ORDER_SWEEP_MS },
        { provide: commitProtocol, useValue: options.ORDER_COMMIT },
        { provide: inDoubtAfter, useValue: options.ORDER_IN_DOUBT_MS },
        { provide: payWithin, useValue: options.ORDER_PAY_WITHIN_MS },
        { provide: SagaDefinitions, useValue: new SagaDefinitions(definitions) },
        { provide: sagaLease, useValue: options.ORDER_SAGA_LEASE_MS },
        {
          provide: MessagingPayment,
          inject: [Messenger],
          useFactory: (messenger: Messenger) =>
            new MessagingPayment(
              messenger.clientFor(paymentContract, options.PAYMENT_AT, { balance: options.PAYMENT_BALANCE }),
            ),
        },
        ...[PaymentLookup, PaymentPerformer].map((port) => ({ provide: port, useExisting: MessagingPayment })),
        {
          provide: MessagingStock,
          inject: [Messenger, sqlToken('order')],
          useFactory: async (messenger: Messenger, sql: Sql) =>
            new MessagingStock(
              messenger.clientFor(inventoryContract, options.INVENTORY_AT, { balance: options.INVENTORY_BALANCE }),
              options.ORDER_HOLD_MS,
              await firstSetting(sql, 'orders', 'id', randomUUID()),
              (inventoryId) => firstSetting(sql, 'orders', 'inventory_id', inventoryId),
            ),
        },
        ...[OverdueStock, StockBranches, StockHolder, StockSettler].map((port) => ({
          provide: port,
          useExisting: MessagingStock,
        })),
        cursorsIn('order', 'orders'),
        ...publishing(options),
      ],
    };
  }
}

/** Without an event bus, followers read the log itself, so nothing is published. */
const publishing = ({ EVENTS_AT, EVENTS_KEEP_HOURS }: OrderSettings): Provider[] =>
  EVENTS_AT.scheme === 'postgres'
    ? []
    : [
        PublishEvents,
        {
          provide: EventPublisher,
          inject: [EventBus],
          useFactory: (bus: EventBus) => bus.publisherFor(EVENTS_AT, { log: 'orders', keepHours: EVENTS_KEEP_HOURS }),
        },
      ];
