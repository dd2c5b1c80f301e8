import { randomBytes, randomUUID } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { Controller, Logger, Module } from '@nestjs/common';
import { orderContract, type OrderLogEvent, type ReplyOf, type RequestOf } from '#contracts';
import { sqlToken, type Sql } from '#database';
import { Checkpoints } from '#events';
import { Answers, listenForMessages } from '#messaging';
import type { PeriodicJob } from '#periodic';
import type { MasterKey } from '#security';
import { createService } from '#service';
import { PostgresDeliveries } from '../src/adapters/postgres-deliveries.js';
import { PostgresEndpoints } from '../src/adapters/postgres-endpoints.js';
import { messageOf, type Happening } from '../src/domain/message.js';
import { AcceptEvents } from '../src/use-cases/accept-events.js';
import { ManageEndpoints } from '../src/use-cases/manage-endpoints.js';
import { PurgeDeliveries } from '../src/use-cases/purge-deliveries.js';
import { ReadDeliveries } from '../src/use-cases/read-deliveries.js';
import { RedeliverMessages } from '../src/use-cases/redeliver-messages.js';
import { RotateSecrets } from '../src/use-cases/rotate-secrets.js';
import { WebhooksModule } from '../src/webhooks.module.js';

Logger.overrideLogger(false);

type Follow = (typeof orderContract)['operations']['events'];

/** The event log of order, in memory. */
class FakeOrders {
  readonly events: OrderLogEvent[] = [];
  /** The requests for events. */
  readonly asked: RequestOf<Follow>[] = [];
  /** Called between selecting the events of a reply and sending it. */
  interrupt: () => Promise<void> | void = () => {};

  async follow(request: RequestOf<Follow>): Promise<ReplyOf<Follow>> {
    this.asked.push(request);
    const { after, limit, types } = request;
    const looked = this.events.filter((it) => it.sequence > after).slice(0, limit);
    await this.interrupt();
    return {
      events: looked.filter((it) => types === null || types.includes(it.type)),
      until: looked.at(-1)?.sequence ?? after,
      is_more: looked.length === limit,
    };
  }
}

@Controller()
class FakeOrderMessages {
  constructor(private readonly orders: FakeOrders) {}

  @Answers(orderContract, 'events')
  events(request: RequestOf<Follow>): Promise<ReplyOf<Follow>> {
    return this.orders.follow(request);
  }
}

@Module({})
class FakeOrderModule {}

/** The webhooks service as it is deployed, with REST. */
export interface Instance {
  url: string;
  sql: Sql;
  endpoints: ManageEndpoints;
  deliveries: ReadDeliveries;
  redeliver: RedeliverMessages;
  purge: PurgeDeliveries;
  postgres: PostgresDeliveries;
  acceptEvents: AcceptEvents;
  rotateSecrets: RotateSecrets;
  kept: PostgresEndpoints;
  orders: FakeOrders;
  checkpoints: Checkpoints;
  /** Stores the messages of events, without waking the worker. */
  accept(...events: Happening[]): Promise<number>;
  stop(): Promise<void>;
}

type Settings = Partial<Parameters<typeof WebhooksModule.register>[0]>;

/** Short enough for a test, and long enough for pending deliveries to be observed. */
const limits = { delaysMs: [20, 40], pollMs: 20, unsignedMs: 50, plainForMs: 0 };

export const masterKey = (id: string): MasterKey => ({ id, key: randomBytes(32) });
const usualKey = masterKey('usual');

/** Waits for the first run of periodic work: it starts by itself, and would process what a test writes meanwhile. */
const firstTimeOf = (work: PeriodicJob): Promise<void> => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const execute = work.execute.bind(work);
  work.execute = () => execute().finally(resolve);
  return promise;
};

const firstLookOf = (postgres: PostgresDeliveries): Promise<void> => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const claim = postgres.claim.bind(postgres);
  postgres.claim = (...asked) => claim(...asked).finally(resolve);
  return promise;
};

export const startInstance = async (WEBHOOKS_DATABASE_URL: string, settings: Settings = {}): Promise<Instance> => {
  const orders = new FakeOrders();
  const app = await createService({
    ...{ name: 'webhooks', HOST: '127.0.0.1', PORT: 0 },
    document: { title: 'Webhooks', description: '' },
    modules: [
      {
        module: FakeOrderModule,
        controllers: [FakeOrderMessages],
        providers: [{ provide: FakeOrders, useValue: orders }],
      },
      WebhooksModule.register({
        ...{ WEBHOOKS_DATABASE_URL, WEBHOOKS_ALLOW_PRIVATE: true, WEBHOOKS_PORTS: [443], WEBHOOKS_TIMEOUT_MS: 15_000 },
        ...{ ORDER_AT: { scheme: 'in-process' }, ORDER_BALANCE: 'least-loaded', EVENTS_AT: { scheme: 'postgres' } },
        DATA_KEYS: [usualKey],
        ...settings,
        limits: { ...limits, ...settings.limits },
      }),
    ],
  });
  const postgres = app.get(PostgresDeliveries, { strict: false });
  const purge = app.get(PurgeDeliveries, { strict: false });
  const rotateSecrets = app.get(RotateSecrets, { strict: false });
  const begun = Promise.all([firstLookOf(postgres), firstTimeOf(purge), firstTimeOf(rotateSecrets)]);
  await listenForMessages(app, []);
  await app.listen(0, '127.0.0.1');
  await begun;
  const { port } = app.getHttpServer().address() as AddressInfo;
  const sql = app.get<Sql>(sqlToken('webhooks'), { strict: false });
  const acceptEvents = app.get(AcceptEvents, { strict: false });
  const checkpoints = new Checkpoints(sql, 'webhooks');
  return {
    url: `http://127.0.0.1:${port}`,
    ...{ sql, acceptEvents, orders, checkpoints },
    endpoints: app.get(ManageEndpoints, { strict: false }),
    deliveries: app.get(ReadDeliveries, { strict: false }),
    redeliver: app.get(RedeliverMessages, { strict: false }),
    ...{ purge, postgres, rotateSecrets },
    kept: app.get(PostgresEndpoints, { strict: false }),
    accept: (...events) => postgres.keep(events.map(messageOf), checkpoints.at('none', [])),
    stop: () => app.close(),
  };
};

/** A new tenant, so that tests can share a database. */
export const newTenant = (): string => `t-${randomUUID()}`;

export const placed = (tenant: string, more: Partial<Happening> = {}): Happening => ({
  ...{ tenant, source: '/orders', id: randomUUID(), type: 'order.placed', at: new Date('2026-01-02T03:04:05.678Z') },
  data: { order_id: randomUUID(), total_minor: 500 },
  ...more,
});
