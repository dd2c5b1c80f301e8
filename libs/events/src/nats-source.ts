import { Logger } from '@nestjs/common';
import type { JsMsg } from '@nats-io/jetstream';
import type { z } from 'zod';
import { logPosition } from '#contracts';
import type { NatsLink } from '#nats';
import type { LeasedPart } from './checkpoints.js';
import { EventSource, fromLog, type LogEntry, type ReadLog, type Reading } from './event-consumer.js';
import { signatureHeader, type EventSigning } from './event-signing.js';
import { previousHeader, sequenceHeader } from './nats-stream.js';
import { PartFeed } from './part-feed.js';

export interface FollowedLog<Event extends LogEntry> {
  /** The name under which the log is published. */
  log: string;
  /** The owner of the checkpoints; its instances share the messages that arrive. */
  consumer: string;
  schema: z.ZodType<Event>;
  /** Reads the log itself, which is complete and takes precedence over NATS. */
  readLog: ReadLog<Event>;
}

const nothing = { events: [], reached: new Map<number, string>(), isMore: false };

/** How long a part may be silent before the log is read: the stream may have lost the latest messages. */
const quietMs = 10_000;

/** How often at most an unsigned message causes a look into the log. */
const hintMs = 1_000;

/** The state of a part that is held. */
interface Part {
  feed: PartFeed;
  /** How far it was read. If the checkpoint is elsewhere, the part is read again from the log: what had arrived is gone. */
  position: string;
  /** Whether only the log can tell what comes next. */
  isDue: boolean;
  /** When it was last known to be in step with the log. */
  inStepAt: number;
  hintedAt: number;
}

/**
 * Reads a log as NATS delivers it. Each event names the position of the one before it: an event that does not follow on
 * waits until the log has told what lies between. While a part cannot be received, it is read from the log.
 */
export class NatsSource<Event extends LogEntry> extends EventSource<Event> {
  private readonly logger = new Logger('EventBus');
  private readonly parts = new Map<number, Part>();
  private isFailing = false;

  constructor(
    private readonly connection: NatsLink,
    private readonly followed: FollowedLog<Event>,
    /** Undefined if everybody who may publish is trusted. */
    private readonly signing?: EventSigning,
  ) {
    super();
  }

  override hold(parts: readonly LeasedPart[], wake: () => void): void {
    for (const [part, { feed }] of this.parts) {
      if (parts.some((it) => it.part === part && it.epoch === feed.epoch)) continue;
      feed.close();
      this.parts.delete(part);
    }
    for (const held of parts) if (!this.parts.has(held.part)) this.parts.set(held.part, this.follow(held, wake));
  }

  async read(held: readonly LeasedPart[], limit: number): Promise<Reading<Event>> {
    const due = held.filter((it) => this.isDue(it));
    const compared = due.length > 0 ? await this.compare(due, limit) : nothing;
    const events = [...compared.events] as Event[];
    const reached = new Map(compared.reached);
    let isMore = compared.isMore;
    const share = Math.ceil(limit / held.length);
    for (const { part, position } of held) {
      const known = this.parts.get(part);
      if (!known) continue;
      const taken = this.take(known, reached.get(part) ?? position, Math.min(share, limit - events.length));
      events.push(...taken);
      const last = taken.at(-1)?.sequence;
      if (last !== undefined) reached.set(part, last);
      known.position = reached.get(part) ?? position;
      if (!reached.has(part)) known.feed.acknowledge();
      isMore ||= known.isDue || known.feed.arrived.size > 0;
    }
    return { events, reached, isMore };
  }

  override async settled(reached: ReadonlyMap<number, string>): Promise<void> {
    for (const part of reached.keys()) this.parts.get(part)?.feed.acknowledge();
  }

  private follow({ part, epoch, position }: LeasedPart, arrive: () => void): Part {
    const { log, consumer } = this.followed;
    const failed = (error: unknown) => this.report(error);
    const opened = () => {
      known.isDue = true;
      this.isFailing = false;
      arrive();
    };
    const feed = new PartFeed(this.connection, { log, consumer, part, epoch, arrive, opened, failed });
    const known: Part = { feed, position, isDue: true, inStepAt: 0, hintedAt: Number.NEGATIVE_INFINITY };
    return known;
  }

  private isDue({ part, position }: LeasedPart): boolean {
    const known = this.parts.get(part);
    if (!known) return true;
    known.feed.listen();
    if (known.position !== position) {
      known.isDue = true;
      known.feed.rewind();
    }
    return known.isDue || !known.feed.isHeard || performance.now() - known.inStepAt > quietMs;
  }

  /** Reads parts from the log. */
  private async compare(due: readonly LeasedPart[], limit: number): Promise<Reading<Event>> {
    const parts = due.flatMap(({ part }) => this.parts.get(part) ?? []);
    const arrived = parts.flatMap(({ feed }) => [...feed.arrived.values()]);
    // Reset before reading: what begins to arrive meanwhile has to be compared once more.
    for (const it of parts) it.isDue = false;
    try {
      const reading = await fromLog(this.followed.readLog, due, limit);
      if (reading.isMore) for (const it of parts) it.isDue = true;
      else {
        for (const it of arrived) it.isCompared = true;
        for (const it of parts) it.inStepAt = performance.now();
      }
      return reading;
    } catch (error) {
      for (const it of parts) it.isDue = true;
      throw error;
    }
  }

  /** Takes the messages that follow on from each other. */
  private take(known: Part, position: string, limit: number): Event[] {
    const events: Event[] = [];
    let at = position;
    for (const [number, { message, isCompared }] of known.feed.arrived) {
      if (events.length >= limit) break;
      const link = linkOf(message);
      if (!this.isBelieved(message, link)) {
        this.refuse(known, message);
        known.feed.pass(number);
        continue;
      }
      if (link && link.sequence > at) {
        const event = link.previous <= at ? this.eventOf(message, link.sequence) : undefined;
        if (!event && !isCompared) {
          known.isDue = true;
          break;
        }
        if (event) {
          events.push(event);
          at = link.sequence;
          known.inStepAt = performance.now();
        } else this.logger.warn(`skipped an event from NATS: the log has none at ${link.sequence}`);
      }
      if (!link) known.isDue = true;
      known.feed.pass(number);
    }
    return events;
  }

  private isBelieved({ subject, headers, data: payload }: JsMsg, link: Link | undefined): boolean {
    if (!this.signing) return true;
    const signature = headers?.get(signatureHeader);
    return !!link && !!signature && this.signing.isRight(signature, { subject, ...link, payload });
  }

  /** The publisher may not sign yet, or use a secret that is no longer valid, so the log is read, at most every `hintMs`. */
  private refuse(known: Part, { subject }: JsMsg): void {
    this.signing?.refuse(this.followed.consumer, subject);
    const now = performance.now();
    if (now - known.hintedAt < hintMs) return;
    known.hintedAt = now;
    known.isDue = true;
  }

  /** @returns `undefined` if it has to be read from the log: it was too large, or is not understood */
  private eventOf(message: JsMsg, sequence: string): Event | undefined {
    try {
      const { data } = this.followed.schema.safeParse(message.json());
      return data?.sequence === sequence ? data : undefined;
    } catch {
      return undefined;
    }
  }

  private report(error: unknown): void {
    // The connection itself reports that NATS cannot be reached.
    if (!this.connection.isUp) return;
    if (!this.isFailing)
      this.logger.warn(
        `${this.followed.consumer} cannot consume from NATS and reads the log meanwhile (${String(error)})`,
      );
    this.isFailing = true;
  }
}

interface Link {
  sequence: string;
  previous: string;
}

const linkOf = ({ headers }: JsMsg): Link | undefined => {
  const sequence = logPosition.safeParse(headers?.get(sequenceHeader)).data;
  const previous = logPosition.safeParse(headers?.get(previousHeader)).data;
  return sequence !== undefined && previous !== undefined && previous < sequence ? { sequence, previous } : undefined;
};
