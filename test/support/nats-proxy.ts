import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import type { Moment } from './postgres-proxy.js';

interface Place {
  /** How the subject begins that the message is published to. */
  subject: string;
  /**
   * Where the message is when it is caught.
   *
   * - `before`: the app has sent it; NATS has not received it, and never will.
   * - `after`: NATS has answered it; the app has not received the answer.
   */
  moment: Exclude<Moment, 'sent'>;
}

/** A message that was caught. Its connection is frozen until it is cut. */
export interface CaughtMessage {
  /** For `after`: whether NATS has stored it. */
  outcome: 'kept' | 'failed' | undefined;
  cut(): void;
}

interface Snare extends Place {
  /** How many such messages still pass. */
  left: number;
  act: (caught: CaughtMessage) => void;
}

/** A message from either side, such as `PUB subject [reply] size` followed by that many bytes. */
interface Message {
  bytes: Buffer;
  verb: string;
  words: string[];
}

const caughtWithinMs = 60_000;

const newline = '\r\n';
const haveContent = new Set(['PUB', 'HPUB', 'MSG', 'HMSG']);

/** Cuts a stream into messages of the client protocol. */
class Messages {
  private rest: Buffer = Buffer.alloc(0);

  *in(chunk: Buffer): Generator<Message> {
    this.rest = Buffer.concat([this.rest, chunk]);
    for (;;) {
      const lineEnd = this.rest.indexOf(newline);
      if (lineEnd < 0) return;
      const [verb = '', ...words] = this.rest.toString('utf8', 0, lineEnd).split(/[ \t]+/);
      const contentBytes = haveContent.has(verb.toUpperCase()) ? Number(words.at(-1)) + newline.length : 0;
      const end = lineEnd + newline.length + contentBytes;
      if (this.rest.length < end) return;
      const bytes = this.rest.subarray(0, end);
      this.rest = this.rest.subarray(end);
      yield { bytes, verb: verb.toUpperCase(), words };
    }
  }
}

/** The subject that a message is published to, and that of the answer. Messages with headers have one size more. */
const publishedBy = ({ verb, words }: Message): { subject: string; reply: string | undefined } | undefined => {
  const sizes = { PUB: 1, HPUB: 2 }[verb];
  if (sizes === undefined) return undefined;
  const [subject = '', reply] = words.slice(0, -sizes);
  return { subject, reply };
};

/** JetStream answers with the sequence number of a stored message. */
const outcomeOf = ({ bytes }: Message): CaughtMessage['outcome'] =>
  /"seq":/.test(bytes.toString()) ? 'kept' : 'failed';

/** A proxy between apps and NATS that catches published messages by the beginning of their subject. */
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

  /** Resolves when such a message passes for the n-th time from now on; rejects if that takes too long. */
  next(place: Place, occurrence = 1): Promise<CaughtMessage> {
    const { promise, resolve, reject } = Promise.withResolvers<CaughtMessage>();
    this.snare = { ...place, left: occurrence, act: resolve };
    const complaint = new Error(
      `nothing was caught that is published to ${place.subject}, at occurrence ${occurrence}`,
    );
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
    const [fromApp, fromNats] = [new Messages(), new Messages()];
    let isStill = false;
    let awaited: { reply: string; snare: Snare } | undefined;
    const cut = (): void => {
      app.destroy();
      nats.destroy();
    };
    const stand = (snare: Snare, outcome: CaughtMessage['outcome']): void => {
      isStill = true;
      snare.act({ outcome, cut });
    };
    for (const socket of [app, nats]) {
      this.sockets.add(socket.setNoDelay(true));
      socket.on('error', cut).on('close', () => {
        this.sockets.delete(socket);
        cut();
      });
    }
    app.on('data', (chunk: Buffer) => {
      for (const message of fromApp.in(chunk)) {
        if (isStill) return;
        const published = publishedBy(message);
        const snare = published && this.sprung(published.subject);
        if (snare?.moment === 'before') return stand(snare, undefined);
        if (snare && published?.reply) awaited = { reply: published.reply, snare };
        nats.write(message.bytes);
      }
    });
    nats.on('data', (chunk: Buffer) => {
      for (const message of fromNats.in(chunk)) {
        if (isStill) return;
        if (awaited && awaited.reply === message.words[0]) return stand(awaited.snare, outcomeOf(message));
        app.write(message.bytes);
      }
    });
  }

  private sprung(subject: string): Snare | undefined {
    const { snare } = this;
    if (!snare || !subject.startsWith(snare.subject) || snare.left === 0) return undefined;
    snare.left -= 1;
    return snare.left === 0 ? snare : undefined;
  }
}
