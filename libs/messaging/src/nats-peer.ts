import { CleaveError } from '#contracts';
import { NatsLink, type NatsAddress } from '#nats';
import { createInbox, type Msg, type NatsConnection } from '@nats-io/transport-node';
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { PendingRequests } from './pending-requests.js';

/** Queue group of a module's instances: each request is delivered to one of them. */
export const group = 'instances';
const requests = 'cleave.requests';
/**
 * `pattern` is `<module>.<operation>`, or `<module>.*` for a whole module; `at` is the prefix of the group or of one
 * instance.
 */
export const requestSubject = (pattern: string, at = requests): string => `${at}.${pattern}`;
export const patternOf = (subject: string): string => subject.split('.').slice(-2).join('.');
/** A subject for requests to one particular instance. */
export const newOwnSubject = (): string => `cleave.requests-of.${randomUUID()}`;
/**
 * Every instance of the module is in the queue group of this prefix too. It gets the requests that find nobody in the usual
 * group, because all instances have left that: they fail.
 */
export const lastResort = 'cleave.requests-of.anyone';
/** Every instance of the module subscribes to it, and replies with its own subject unless it fails. */
export const presentSubject = (module: string): string => `cleave.present.${module}`;
/** Every instance of the module subscribes to it, and replies if it still has one of the listed requests. */
export const carriedSubject = (module: string): string => `cleave.carried.${module}`;

/** One message: its head is JSON on one line, its body is text that is not encoded a second time. */
export interface Frame {
  head: Record<string, unknown>;
  /** Undefined if the message is no valid frame. */
  body?: string;
}

const lineBreak = 10;

export const encodeFrame = (head: object, body = ''): Buffer => Buffer.from(`${JSON.stringify(head)}\n${body}`);

/** Never throws: a callback that throws would end the connection's read loop. */
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

/** Replaces a frame that is too large for one message: the receiver fetches it in parts, one after the other. */
const wireOffer = z.object({ at: z.string().regex(/^\S+$/), bytes: z.int().min(0), withinMs: z.number() });
type Offer = z.output<typeof wireOffer>;

/** Validated strictly, because anyone who may publish can send it. */
const wirePresent = z.object({ at: z.string().regex(/^cleave\.requests-of\.[\w-]+$/) });

/** The own subject of an instance that replied to a presence question. */
export const presentIn = ({ head }: Frame): string | undefined => wirePresent.safeParse(head).data?.at;

/** Validated strictly, because anyone who may publish can send it, and its signature has not been checked yet. */
const offerIn = ({ head }: Frame): Offer | undefined =>
  'offer' in head ? wireOffer.safeParse(head['offer']).data : undefined;

/** Applies even if the server allows more: a large message blocks those behind it. */
const largestPartBytes = 1_048_576;
/** Allowance for a frame's head, beside its body. */
const headBytes = 1_048_576;
/** Limits the requests that are fetched at the same time, before admission: 128 MiB, eight of the largest. */
const mostFetchedBytes = 134_217_728;

/** No instance is subscribed to the subject. */
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
  /** The reply subject, unique for each request. */
  reply: string;
  /** `hear` is not called any more. */
  stop: () => void;
}

/**
 * One end of the request protocol over NATS: a connection with its own inbox, which receives all replies. A frame larger
 * than one message may be (`max_payload`) is offered instead, and the other end fetches it in parts. Parts are requested one
 * at a time, so that the receiver never becomes a slow consumer, which NATS would disconnect.
 */
export class NatsPeer {
  private readonly link: NatsLink;
  private readonly inbox = createInbox();
  private readonly awaited = new PendingRequests<HearMessage>();
  private readonly offered = new Map<string, Offered>();
  private connection: NatsConnection | undefined;
  private lastId = 0;
  private fetchedBytes = 0;

  /** @param maxBytes of the body of a frame that is fetched in parts */
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
      // The link logs errors; they come without a message.
      connection.subscribe(`${this.inbox}.*`, {
        callback: (error, message) => (error ? undefined : this.hear(message)),
      });
    }
    return connection;
  }

  /** Waits until the server has processed everything that was sent. */
  async flush(): Promise<void> {
    if (this.link.isUp) await this.connection?.flush();
  }

  async close(): Promise<void> {
    this.failAll('the client was closed');
    await this.link.close();
  }

  /** Calls `hear` once, asynchronously, and not after `stop`. */
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
   * Resolves once the frame is sent; for a large frame, once it was fetched or is not wanted any more.
   *
   * @throws Error when NATS is not reached
   */
  async answer(subject: string, frame: Buffer, withinMs: number): Promise<void> {
    await this.publish(subject, frame, withinMs)?.ended;
  }

  /**
   * The frame of a request; fetches it if the message only offers it.
   *
   * @throws CleaveError `payload-too-large`, `unavailable` when too much is being fetched already; Error if it could not
   *   be fetched
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

  /** @returns the offer, if the frame is too large to be sent directly */
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
      // If nobody is subscribed for the answer any more, NATS reports that to `at`, which ends the offer.
      this.transmit(subject, encodeFrame({ offer }), { reply: reply ?? at });
    } catch (error) {
      end();
      throw error;
    }
    return { end, ended };
  }

  /** Throws while the connection is lost, because the NATS client would buffer messages without a bound. */
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
    // A message without a reply subject ends the offer: the receiver gave up, or there is none.
    if (offered && !reply) return offered.end();
    if (!this.link.isUp || !reply) return;
    const lateOffer = offered ? undefined : offerIn(decodeFrame(message.data));
    if (lateOffer) return this.transmit(lateOffer.at, '');
    this.givePart(offered ?? gone, reply, Number(message.string()));
  }

  /** An empty part means that the frame is not offered any more. */
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
