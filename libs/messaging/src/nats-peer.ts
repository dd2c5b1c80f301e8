import { CleaveError } from '#contracts';
import { NatsLink, type NatsAddress } from '#nats';
import { createInbox, type Msg, type NatsConnection } from '@nats-io/transport-node';
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { Awaited } from './awaited.js';

/** How requests travel over NATS: members of the group of a module hear each of them once. */
export const group = 'instances';
const requests = 'cleave.requests';
/** `<module>.<operation>`, or `<module>.*` for all that a module answers; of its group, or of one instance. */
export const requestSubject = (pattern: string, at = requests): string => `${at}.${pattern}`;
export const patternOf = (subject: string): string => subject.split('.').slice(-2).join('.');
/** Where one instance is asked and no other. */
export const newOwnSubject = (): string => `cleave.requests-of.${randomUUID()}`;
/** Heard by every instance of the module: which of them answers at present? By its own subject. */
export const presentSubject = (module: string): string => `cleave.present.${module}`;
/** Heard by every instance of the module: which of some requests are in its hands still? */
export const carriedSubject = (module: string): string => `cleave.carried.${module}`;

/** One message: its head is JSON, and so has no line break, its body text that is not encoded a second time. */
export interface Frame {
  head: Record<string, unknown>;
  /** None where what came is no frame. */
  body?: string;
}

const lineBreak = 10;

export const encodeFrame = (head: object, body = ''): Buffer => Buffer.from(`${JSON.stringify(head)}\n${body}`);

/** Never throws: that would end the connection, which reads no more once a callback has. */
export function decodeFrame({ buffer, byteOffset, length }: Uint8Array): Frame {
  const bytes = Buffer.from(buffer, byteOffset, length);
  const headEnd = bytes.indexOf(lineBreak);
  try {
    const head: unknown = JSON.parse(bytes.toString('utf8', 0, Math.max(headEnd, 0)));
    if (typeof head !== 'object' || head === null) return { head: {} };
    return { head: head as Record<string, unknown>, body: bytes.toString('utf8', headEnd + 1) };
  } catch {
    return { head: {} };
  }
}

/** Stands for a frame that is too large for one message: whoever gets it asks for the parts, one after the other. */
const wireOffer = z.object({ at: z.string().regex(/^\S+$/), bytes: z.int().min(0), withinMs: z.number() });
type Offer = z.output<typeof wireOffer>;

/** Whoever may publish may have made it: what is no subject of an instance is none. */
const wirePresent = z.object({ at: z.string().regex(/^cleave\.requests-of\.[\w-]+$/) });

/** Where the one asks to be asked that has said that it is present. */
export const presentIn = ({ head }: Frame): string | undefined => wirePresent.safeParse(head).data?.at;

/** Whoever may publish may have made it, and nobody has looked for a signature yet: what is no offer is none. */
const offerIn = ({ head }: Frame): Offer | undefined =>
  'offer' in head ? wireOffer.safeParse(head['offer']).data : undefined;

/** However much the server allows: a large message holds up all that are behind it. */
const largestPartBytes = 1_048_576;
/** What a frame may have beside its body. */
const headBytes = 1_048_576;
/** Of requests that are fetched at the same time, before anybody has decided whether they are admitted: eight of the largest. */
const mostFetchedBytes = 134_217_728;

/** Nobody is subscribed to what was asked. */
export class NobodyThere extends Error {
  override readonly name = 'NobodyThere';
}

interface Offered {
  frame: Buffer;
  end: () => void;
}

const gone: Offered = { frame: Buffer.alloc(0), end: () => undefined };

interface Sent {
  end: () => void;
  ended: Promise<void>;
}

type HearMessage = (heard: Msg | Error) => void;
type HearFrame = (heard: Frame | Error) => void;

export interface Asked {
  /** By which the answer comes; no two questions have the same. */
  reply: string;
  /** Nothing is heard of it from now on. */
  stop: () => void;
}

/**
 * One end of requests over NATS: a connection, and an inbox of its own to which all replies come. What is larger than the
 * server takes (`max_payload`) is offered instead and fetched by the other end in parts. Because they are asked for one at
 * a time, nothing piles up at a server that cuts off whoever does not keep up.
 */
export class NatsPeer {
  private readonly link: NatsLink;
  private readonly inbox = createInbox();
  private readonly awaited = new Awaited<HearMessage>();
  private readonly offered = new Map<string, Offered>();
  private connection: NatsConnection | undefined;
  private lastId = 0;
  private fetchedBytes = 0;

  /** @param maxBytes of the body of a frame, where it comes in parts */
  constructor(
    at: NatsAddress,
    title: string,
    private readonly maxBytes: () => number,
  ) {
    this.link = new NatsLink(at, { title, onLost: (why) => this.failAll(why) });
  }

  get isReached(): boolean {
    return this.link.isUp;
  }

  /** @throws Error while NATS is not reached */
  async open(): Promise<NatsConnection> {
    const connection = await this.link.open();
    if (this.connection !== connection) {
      this.connection = connection;
      // An error is told of by the link; there is no message with it.
      connection.subscribe(`${this.inbox}.*`, {
        callback: (error, message) => (error ? undefined : this.hear(message)),
      });
    }
    return connection;
  }

  /** Waits until NATS has everything. */
  async flush(): Promise<void> {
    if (this.link.isUp) await this.connection?.flush();
  }

  async close(): Promise<void> {
    this.failAll('the client was closed');
    await this.link.close();
  }

  /** `hear` is called once, later, and not at all after `stop`. */
  ask(subject: string, frame: Buffer, withinMs: number, hear: HearFrame): Asked {
    const id = this.newId();
    const reply = `${this.inbox}.${id}`;
    const state = { isOver: false };
    const finish: HearFrame = (heard) => {
      if (!state.isOver) hear(heard);
      state.isOver = true;
    };
    this.awaited.add(id, (heard) => {
      sent?.end();
      if (heard instanceof Error) return finish(heard);
      if (isNobody(heard)) return finish(new NobodyThere(`there is no responder at ${subject}`));
      const frame = decodeFrame(heard.data);
      const offer = offerIn(frame);
      if (!offer) return finish(frame);
      this.fetched(heard.subject, offer, withinMs, () => state.isOver).then(finish, finish);
    });
    const stop = () => {
      state.isOver = true;
      this.awaited.take(id);
      sent?.end();
    };
    let sent: Sent | undefined;
    try {
      sent = this.publish(subject, frame, withinMs, reply);
    } catch (error) {
      this.awaited.take(id);
      queueMicrotask(() => finish(error as Error));
    }
    return { reply, stop };
  }

  /**
   * Resolves once the frame is on its way, and where it is large, once it was fetched or nobody waits for it any more.
   *
   * @throws Error when NATS is not reached
   */
  async answer(subject: string, frame: Buffer, withinMs: number): Promise<void> {
    await this.publish(subject, frame, withinMs)?.ended;
  }

  /**
   * The frame of a request, which is fetched where the message only offers it.
   *
   * @throws CleaveError `payload-too-large`, `unavailable` when too much is being fetched already; Error when it could not be
   *   fetched
   */
  async request(message: Msg): Promise<Frame> {
    const frame = decodeFrame(message.data);
    const offer = offerIn(frame);
    if (!offer) return frame;
    const { bytes } = offer;
    if (this.fetchedBytes > 0 && this.fetchedBytes + bytes > mostFetchedBytes) {
      const detail = `${message.subject} is receiving too many large requests; this one has had no effect, repeat it later`;
      throw new CleaveError('unavailable', detail);
    }
    this.fetchedBytes += bytes;
    try {
      return await this.fetched(message.subject, offer);
    } finally {
      this.fetchedBytes -= bytes;
    }
  }

  private async fetched(
    subject: string,
    offer: Offer,
    withinMs = Number.POSITIVE_INFINITY,
    isOver = () => false,
  ): Promise<Frame> {
    const maxBytes = this.maxBytes();
    if (offer.bytes > maxBytes + headBytes) {
      const detail = `${subject} was sent ${offer.bytes} bytes; at most ${maxBytes} are allowed. Ask for less at once`;
      throw new CleaveError('payload-too-large', detail, { bytes: offer.bytes, max_bytes: maxBytes });
    }
    const giveUpAt = performance.now() + Math.min(withinMs, offer.withinMs);
    const bytes = Buffer.allocUnsafe(offer.bytes);
    for (let filled = 0; filled < bytes.length && !isOver();) {
      const part = await this.fetchPart(offer.at, filled, giveUpAt - performance.now());
      if (part.length === 0 || part.length > bytes.length - filled)
        throw new Error('the rest of a large message is no longer available');
      bytes.set(part, filled);
      filled += part.length;
    }
    return decodeFrame(bytes);
  }

  private fetchPart(at: string, from: number, withinMs: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const id = this.newId();
      const timer = setTimeout(() => finish(new Error('a part of a large message did not arrive in time')), withinMs);
      const finish: HearMessage = (heard) => {
        clearTimeout(timer);
        this.awaited.take(id);
        if (heard instanceof Error) reject(heard);
        else resolve(heard.data);
      };
      this.awaited.add(id, finish);
      try {
        this.transmit(at, String(from), { reply: `${this.inbox}.${id}` });
      } catch (error) {
        finish(error as Error);
      }
    });
  }

  /** What there is to end where the frame is only offered. */
  private publish(subject: string, frame: Buffer, withinMs: number, reply?: string): Sent | undefined {
    if (frame.length <= this.partBytes) {
      this.transmit(subject, frame, reply === undefined ? {} : { reply });
      return undefined;
    }
    const id = this.newId();
    const at = `${this.inbox}.${id}`;
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => end(), withinMs);
    const end = () => {
      clearTimeout(timer);
      this.offered.delete(id);
      resolve();
    };
    this.offered.set(id, { frame, end });
    const offer: Offer = { at, bytes: frame.length, withinMs };
    try {
      // An answer that nobody hears any more comes back to where it was offered.
      this.transmit(subject, encodeFrame({ offer }), { reply: reply ?? at });
    } catch (error) {
      end();
      throw error;
    }
    return { end, ended };
  }

  /** The client of NATS would keep what is sent while the connection is lost, without a bound. */
  private transmit(subject: string, data: string | Uint8Array, options: { reply?: string } = {}): void {
    if (!this.connection || !this.link.isUp) throw new Error('NATS is unreachable');
    this.connection.publish(subject, data, options);
  }

  private get partBytes(): number {
    return Math.min(this.connection?.info?.max_payload ?? largestPartBytes, largestPartBytes);
  }

  private hear(message: Msg): void {
    const id = message.subject.slice(this.inbox.length + 1);
    const hear = this.awaited.take(id);
    if (hear) return hear(message);
    const { reply } = message;
    const offered = this.offered.get(id);
    // Without an address for the part it says that none is wanted.
    if (offered && !reply) return offered.end();
    if (!this.link.isUp || !reply) return;
    const lateOffer = offered ? undefined : offerIn(decodeFrame(message.data));
    if (lateOffer) return this.transmit(lateOffer.at, '');
    this.givePart(offered ?? gone, reply, Number(message.string()));
  }

  /** Nothing at all stands for what is not offered any more. */
  private givePart({ frame, end }: Offered, to: string, from: number): void {
    const until = from + this.partBytes;
    this.transmit(to, frame.subarray(from, until));
    if (until >= frame.length) end();
  }

  private failAll(why: string): void {
    for (const hear of this.awaited.takeAll()) hear(new Error(why));
    for (const { end } of this.offered.values()) end();
  }

  private newId(): string {
    return String((this.lastId += 1));
  }
}

const isNobody = ({ data, headers }: Msg): boolean => data.length === 0 && headers?.code === 503;
