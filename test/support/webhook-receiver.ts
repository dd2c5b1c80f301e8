import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { Webhook } from 'standardwebhooks';
import type { z } from 'zod';
import type { createdWebhookEndpoint } from '#contracts';
import { ok, type Api } from './api.js';
import { askOrder, type DatabaseUrls } from './tables.js';

interface Told {
  type: string;
  data: { order_id: string; version: number };
}

/** The events of orders, by their unique names. */
const eventsIn = async (urls: DatabaseUrls): Promise<Set<string>> =>
  new Set(
    (await askOrder<{ event: string }>(urls, `SELECT order_id || ':' || version AS event FROM events`)).map(
      (it) => it.event,
    ),
  );

/** A merchant that subscribes to every event and checks signatures. */
export class WebhookReceiver {
  /** How often each event was delivered. */
  readonly told = new Map<string, number>();
  /** The bodies of all messages, unparsed. */
  received = '';
  /** How many messages were not signed with our secret. */
  forged = 0;
  /** The path of its registration. */
  address = '';
  private secret = '';
  private snare: { left: number; act: (caught: { cut(): void }) => void } | undefined;
  private before: ReadonlySet<string> = new Set();
  private readonly server = createServer((request, response) => void this.receive(request, response));

  private constructor(private readonly api: Api) {}

  static async start(api: Api, urls: DatabaseUrls): Promise<WebhookReceiver> {
    const receiver = new WebhookReceiver(api);
    // A failed test does not reach its end, and must still not keep the process alive.
    receiver.server.unref().listen(0, '127.0.0.1');
    await once(receiver.server, 'listening');
    const { port } = receiver.server.address() as AddressInfo;
    receiver.before = await eventsIn(urls);
    const body = { url: `http://127.0.0.1:${port}/` };
    const registered = await api.send<z.input<typeof createdWebhookEndpoint>>('POST', '/webhook-endpoints', { body });
    const { endpoint_id, secret } = ok(registered, 201);
    Object.assign(receiver, { secret, address: `/webhook-endpoints/${endpoint_id}` });
    return receiver;
  }

  /**
   * Resolves when the n-th message from now on arrives. It is not answered, and its connection stays open until it is
   * cut.
   */
  next(occurrence: number): Promise<{ cut(): void }> {
    const { promise, resolve } = Promise.withResolvers<{ cut(): void }>();
    this.snare = { left: occurrence, act: resolve };
    return promise;
  }

  /** The events since its registration that were not delivered, and deliveries of events that did not happen. */
  async differences(urls: DatabaseUrls): Promise<string[]> {
    const happened = [...(await eventsIn(urls)).difference(this.before)];
    return [
      ...happened.filter((it) => !this.told.has(it)).map((it) => `${it} was not told`),
      ...[...this.told.keys()].filter((it) => !happened.includes(it)).map((it) => `${it} has not happened`),
      ...(this.forged > 0 ? [`${this.forged} messages were not signed with the secret`] : []),
    ];
  }

  async stop(): Promise<void> {
    try {
      ok(await this.api.send('DELETE', this.address), 204);
    } finally {
      this.server.close();
      this.server.closeAllConnections();
    }
  }

  private async receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    this.received += body;
    try {
      const { data } = new Webhook(this.secret).verify(body, request.headers as Record<string, string>) as Told;
      const event = `${data.order_id}:${data.version}`;
      this.told.set(event, (this.told.get(event) ?? 0) + 1);
    } catch {
      this.forged += 1;
    }
    if (this.snare && --this.snare.left === 0) this.snare.act({ cut: () => response.destroy() });
    else response.writeHead(204).end();
  }
}
