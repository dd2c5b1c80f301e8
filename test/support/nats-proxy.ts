import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

/**
 * Where a message is on its way when it is caught.
 *
 * - `before`: the app has sent it; NATS has seen nothing of it, and will not.
 * - `after`: NATS has it; the app has seen nothing of what NATS says to that.
 */
export type NatsMoment = 'before' | 'after';

interface Snare {
  /** What begins a message that is published to the subject. */
  head: string;
  moment: NatsMoment;
  seen: number;
  occurrence: number;
  act: (caught: { cut(): void }) => void;
}

/** A message that was caught. Its connection stands still until it is cut. */
export type CaughtMessage = Parameters<Snare['act']>[0];

const caughtWithinMs = 20_000;

/** Stands between apps and NATS, and catches what is published by the beginning of its subject. */
export class NatsProxy {
  private snare: Snare | undefined;
  private readonly sockets = new Set<Socket>();

  private constructor(
    private readonly server: Server,
    /** `nats://127.0.0.1:<port>` */
    readonly url: string,
  ) {}

  /** @param target the URL of one NATS server */
  static async start(target: string): Promise<NatsProxy> {
    const { hostname, port } = new URL(target);
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const proxy = new NatsProxy(server, `nats://127.0.0.1:${(server.address() as AddressInfo).port}`);
    server.on('connection', (app) => proxy.join(app, connect({ host: hostname, port: Number(port) })));
    return proxy;
  }

  /** Resolves when the message comes by for the n-th time from now on; rejects when that takes too long. */
  next(place: { subject: string; moment: NatsMoment }, occurrence: number): Promise<CaughtMessage> {
    const { promise, resolve, reject } = Promise.withResolvers<CaughtMessage>();
    const { subject, moment } = place;
    this.snare = { head: `PUB ${subject}`, moment, seen: 0, occurrence, act: resolve };
    const complaint = new Error(`nothing was caught that is published to ${subject}, at occurrence ${occurrence}`);
    const late = setTimeout(reject, caughtWithinMs, complaint);
    return promise.finally(() => {
      clearTimeout(late);
      this.snare = undefined;
    });
  }

  async stop(): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }

  private join(app: Socket, nats: Socket): void {
    let caught: Snare | undefined;
    const cut = (): void => {
      app.destroy();
      nats.destroy();
    };
    for (const socket of [app, nats]) {
      this.sockets.add(socket.setNoDelay(true));
      socket.on('error', cut).on('close', () => {
        this.sockets.delete(socket);
        cut();
      });
    }
    app.on('data', (chunk: Buffer) => {
      if (caught) return;
      caught = this.sprung(chunk);
      if (caught?.moment === 'before') caught.act({ cut });
      else nats.write(chunk);
    });
    nats.on('data', (chunk: Buffer) => {
      if (caught?.moment === 'after') caught.act({ cut });
      if (!caught) app.write(chunk);
    });
  }

  /** What two chunks share is not seen, which only means that a later one is caught. */
  private sprung(chunk: Buffer): Snare | undefined {
    const { snare } = this;
    if (!snare || snare.seen >= snare.occurrence) return undefined;
    snare.seen += chunk.toString('latin1').split(snare.head).length - 1;
    return snare.seen >= snare.occurrence ? snare : undefined;
  }
}
