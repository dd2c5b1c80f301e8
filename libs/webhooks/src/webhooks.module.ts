import { Module, type DynamicModule, type OnModuleInit } from '@nestjs/common';
import type { z } from 'zod';
import { env } from '#config';
import { orderContract, orderLogEvent } from '#contracts';
import { InjectSql, Sql, databaseFor, type Database } from '#database';
import { EventBus, EventsModule, checkpointsIn, eventBus } from '#events';
import { Readiness } from '#health';
import { Messenger, address, balancePolicy } from '#messaging';
import { cursorsIn } from '#rest';
import { MasterKeys, dataKeys } from '#security';
import { Webhooks1764000000006 } from '../migrations/1-webhooks.js';
import { MessageTraces1764000000007 } from '../migrations/2-traces.js';
import { SealedSecrets1764000000044 } from '../migrations/3-sealed-secrets.js';
import { KeptUntilSettled1764000000046 } from '../migrations/4-kept-until-settled.js';
import { TakenOver1764000000049 } from '../migrations/5-taken-over.js';
import { AddressGuard, usualPorts } from './adapters/address-guard.js';
import { HttpSender } from './adapters/http-sender.js';
import { wantedLog } from './adapters/messaging-order-log.js';
import { PostgresDeliveries } from './adapters/postgres-deliveries.js';
import { PostgresEndpoints } from './adapters/postgres-endpoints.js';
import { retryDelaysMs } from './domain/retries.js';
import { WebhooksController } from './transport/webhooks.controller.js';
import { AcceptEvents, Messages, OrderLog, WantedTypes } from './use-cases/accept-events.js';
import {
  DeliverMessages,
  DueDeliveries,
  WebhookSender,
  deliveryLimits,
  type DeliveryLimits,
} from './use-cases/deliver-messages.js';
import { AddressRules, Endpoints, ManageEndpoints } from './use-cases/manage-endpoints.js';
import { KeepSecrets } from './use-cases/keep-secrets.js';
import { KeptDeliveries, PurgeDeliveries } from './use-cases/purge-deliveries.js';
import { DeliveryLog, ReadDeliveries } from './use-cases/read-deliveries.js';
import { Redeliveries, RedeliverMessages } from './use-cases/redeliver-messages.js';
import { KeptSecrets, RotateSecrets } from './use-cases/rotate-secrets.js';

/** The environment variables of webhooks. */
export const webhooksEnvironment = {
  WEBHOOKS_DATABASE_URL: env.postgresUrl,
  ORDER_AT: address,
  ORDER_BALANCE: balancePolicy,
  EVENTS_AT: eventBus,
  /** Allows http and private addresses, for trying out. */
  WEBHOOKS_ALLOW_PRIVATE: env.flag,
  /** The ports that messages may be sent to. */
  WEBHOOKS_PORTS: env.ports(usualPorts),
  WEBHOOKS_TIMEOUT_MS: env.milliseconds(15_000),
  DATA_KEYS: dataKeys.optional(),
};

/** How often the log is polled while no endpoint wants any event. */
const idleMs = 1_000;

/** The database of webhooks. */
export const webhooksDatabase = (url: string): Database => ({
  name: 'webhooks',
  url,
  schema: 'webhooks',
  entities: [],
  migrations: [
    ...[Webhooks1764000000006, MessageTraces1764000000007],
    ...[SealedSecrets1764000000044, KeptUntilSettled1764000000046, TakenOver1764000000049],
  ],
});

type WebhooksSettings = z.output<z.ZodObject<typeof webhooksEnvironment>> & { limits?: Partial<DeliveryLimits> };

/** Notifies merchants about events of orders, by signed HTTP requests. */
@Module({})
export class WebhooksModule implements OnModuleInit {
  constructor(
    @InjectSql('webhooks') private readonly sql: Sql,
    private readonly readiness: Readiness,
    private readonly secrets: RotateSecrets,
  ) {}

  onModuleInit(): void {
    this.readiness.add('webhooks-database', () => this.sql.condition());
    this.readiness.add('webhooks-secrets', () => this.secrets.condition());
  }

  static register({ limits, ...options }: WebhooksSettings): DynamicModule {
    const usual: DeliveryLimits = {
      delaysMs: retryDelaysMs,
      // Longer than sending takes, because the result has to be stored as well.
      leaseMs: 2 * options.WEBHOOKS_TIMEOUT_MS,
      // A tenant gets half of all slots, which is as many as its endpoints can take up together.
      ...{ ofOne: 8, ofAll: 800, pollMs: 250 },
      ...{ unsignedMs: 60_000, plainForMs: 600_000 },
    };
    return {
      module: WebhooksModule,
      imports: [EventsModule, databaseFor(webhooksDatabase(options.WEBHOOKS_DATABASE_URL))],
      controllers: [WebhooksController],
      providers: [
        ...[AcceptEvents, DeliverMessages, ManageEndpoints, PurgeDeliveries, ReadDeliveries, RedeliverMessages],
        ...[KeepSecrets, RotateSecrets],
        { provide: MasterKeys, useValue: new MasterKeys(options.DATA_KEYS ?? []) },
        ...[PostgresDeliveries, PostgresEndpoints],
        ...[Endpoints, KeptSecrets, WantedTypes].map((port) => ({ provide: port, useExisting: PostgresEndpoints })),
        checkpointsIn('webhooks', 'webhooks'),
        {
          provide: OrderLog,
          inject: [Messenger, EventBus, WantedTypes],
          useFactory: (messenger: Messenger, bus: EventBus, wanted: WantedTypes) => {
            const orders = messenger.clientFor(orderContract, options.ORDER_AT, { balance: options.ORDER_BALANCE });
            const followed = { log: 'orders', consumer: 'webhooks', schema: orderLogEvent };
            const isPolled = options.EVENTS_AT.scheme === 'postgres';
            const readLog = wantedLog(orders, wanted, isPolled ? idleMs : 0);
            return bus.sourceFor(options.EVENTS_AT, { ...followed, readLog });
          },
        },
        ...[DeliveryLog, DueDeliveries, KeptDeliveries, Messages, Redeliveries].map((port) => ({
          provide: port,
          useExisting: PostgresDeliveries,
        })),
        {
          provide: AddressGuard,
          useValue: new AddressGuard(options.WEBHOOKS_ALLOW_PRIVATE, undefined, options.WEBHOOKS_PORTS),
        },
        { provide: AddressRules, useExisting: AddressGuard },
        {
          provide: WebhookSender,
          inject: [AddressGuard],
          useFactory: (guard: AddressGuard) => new HttpSender(guard, options.WEBHOOKS_TIMEOUT_MS),
        },
        { provide: deliveryLimits, useValue: { ...usual, ...limits } },
        cursorsIn('webhooks', 'webhooks'),
      ],
    };
  }
}
