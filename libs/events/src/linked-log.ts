import { EventSource, fromLog, type LogEntry, type ReadLog, type Reading } from './event-consumer.js';
import type { LeasedPart } from './checkpoints.js';
import { partOf } from './parts.js';

/** An event as it is published: a reader that has reached `previous` or a later position misses nothing before it. */
export interface Linked<Event extends LogEntry> extends LogEntry {
  event: Event;
  /** No event of its part lies between this position and the event. */
  previous: string;
}

/** The log, each event linked to the one before it in its part. */
export class LinkedLog<Event extends LogEntry> extends EventSource<Linked<Event>> {
  /** By part: how far it was read, and the last event up to there. True of the log even if the events were not applied. */
  private readonly last = new Map<number, { reached: string; sequence: string }>();

  constructor(private readonly readLog: ReadLog<Event>) {
    super();
  }

  async read(parts: readonly LeasedPart[], limit: number): Promise<Reading<Linked<Event>>> {
    const { events, reached, isMore } = await fromLog(this.readLog, parts, limit);
    const previous = new Map(parts.map((it) => [it.part, this.lastBefore(it)]));
    const linked = events.map((event): Linked<Event> => {
      const { subject, sequence } = event;
      const part = partOf(subject);
      const link = { event, subject, sequence, previous: previous.get(part) as string };
      previous.set(part, sequence);
      return link;
    });
    for (const [part, position] of reached)
      this.last.set(part, { reached: position, sequence: previous.get(part) as string });
    return { events: linked, reached, isMore };
  }

  /** If another instance has read the part, or this one before a failure, only the position is known. */
  private lastBefore({ part, position }: LeasedPart): string {
    const last = this.last.get(part);
    return last?.reached === position ? last.sequence : position;
  }
}
