import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { CacheModule, cacheEnvironment } from '#cache';
import { readEnvironment } from '#config';
import { InventoryModule, inventoryEnvironment } from '#inventory';
import { listenForMessages } from '#messaging';
import { OrderModule, orderEnvironment } from '#order';
import { PaymentModule, paymentEnvironment } from '#payment';
import { PeriodicJob, BackgroundWorker } from '#periodic';
import { createService } from '#service';
import { Api, type Answer, type Sent } from './api.js';
import type { DatabaseUrls } from './tables.js';

/** Work that an instance would do in the background. */
export interface Work {
  execute(): Promise<unknown>;
}

let started: object[] = [];

/**
 * From now on, instances of this process do nothing on their own: their background work is done when it is asked for.
 * @param woken is told of work that is woken, and may do it
 */
export const doNothingAlone = (woken: (work: Work) => void = () => undefined): void => {
  BackgroundWorker.prototype.wake = function (this: object) {
    woken(this as Work);
  };
  for (const { prototype } of [PeriodicJob, BackgroundWorker])
    prototype.onApplicationBootstrap = function (this: object) {
      started.push(this);
    };
};

/** An instance of Cleave in this process, without the modules that only follow the log. */
export class Instance {
  readonly api: Api;

  private constructor(
    private readonly app: NestFastifyApplication,
    private readonly inBackground: readonly object[],
  ) {
    this.api = new InjectingApi(app);
  }

  static async start(urls: DatabaseUrls, name: string, more: Record<string, string> = {}): Promise<Instance> {
    started = [];
    const shape = { ...orderEnvironment, ...inventoryEnvironment, ...paymentEnvironment, ...cacheEnvironment };
    const settings = readEnvironment(shape, {
      ORDER_DATABASE_URL: urls.order,
      INVENTORY_DATABASE_URL: urls.inventory,
      PAYMENT_DATABASE_URL: urls.payment,
      INVENTORY_AT: 'in-process:',
      PAYMENT_AT: 'in-process:',
      CACHE_AT: 'in-process:',
      ...more,
    });
    const app = await createService({
      ...{ name, HOST: '127.0.0.1', PORT: 0 },
      document: { title: 'Cleave', description: '' },
      modules: [
        ...[OrderModule.register(settings), InventoryModule.register(settings)],
        ...[PaymentModule.register(settings), CacheModule.register(settings)],
      ],
    });
    await listenForMessages(app, []);
    return new Instance(app, started);
  }

  /** The background work of a class, by its name. */
  works(name: string): Work[] {
    const found = this.inBackground.filter((it) => it.constructor.name === name);
    if (found.length === 0) throw new Error(`no ${name} is at work here`);
    return found as Work[];
  }

  stop(): Promise<void> {
    return this.app.close();
  }
}

/** Sends requests without a network. */
class InjectingApi extends Api {
  constructor(private readonly app: NestFastifyApplication) {
    super('in-process:');
  }

  override async send<Body = unknown>(method: string, path: string, sent: Sent = {}): Promise<Answer<Body>> {
    const { body, key, headers } = sent;
    const answer = await this.app.inject({
      method: method as 'GET',
      url: path,
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(key !== undefined && { 'idempotency-key': `"${key}"` }),
        ...headers,
      },
      ...(body !== undefined && { payload: JSON.stringify(body) }),
    });
    const text = answer.body;
    const told = Object.entries(answer.headers).map(([name, value]): [string, string] => [name, String(value)]);
    return {
      status: answer.statusCode,
      headers: new Headers(told),
      text,
      body: (/json/.test(answer.headers['content-type'] ?? '') && text !== '' ? JSON.parse(text) : undefined) as Body,
    };
  }
}
