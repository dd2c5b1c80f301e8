import { Injectable, Module, Optional, type OnApplicationShutdown } from '@nestjs/common';
import { Readiness, type Condition } from '#health';
import { NatsLink, type NatsAddress } from '#nats';
import { ServiceSecrets } from '#security';
import { Metrics } from '#telemetry';
import type { EventBusAddress } from './bus-address.js';
import type { LeasedPart } from './checkpoints.js';
import { EventSource, fromLog, readingAhead, type LogEntry, type ReadLog, type Reading } from './event-consumer.js';
import { EventSigning } from './event-signing.js';
import { NatsPublisher, type EventPublisher } from './nats-publisher.js';
import { NatsSource, type FollowedLog } from './nats-source.js';

/** Pages that are read ahead while a batch is being applied. */
const pagesAhead = 4;

/** Gives modules a source of the events of a log, and a publisher for it. Connects on first use, once for each address. */
@Injectable()
export class EventBus implements OnApplicationShutdown {
  private readonly connections = new Map<string, NatsLink>();

  private readonly signing: EventSigning | undefined;

  constructor(
    @Optional() private readonly readiness?: Readiness,
    /** Authenticates events from NATS; without it, everybody who may publish there is trusted. */
    @Optional() secrets?: ServiceSecrets,
    @Optional() metrics?: Metrics,
  ) {
    this.signing = secrets && new EventSigning(secrets, metrics);
  }

  /** The source for an `EventConsumer`; the address decides how events reach it. */
  sourceFor<Event extends LogEntry>(at: EventBusAddress, followed: FollowedLog<Event>): EventSource<Event> {
    const readLog = readingAhead(followed.readLog, pagesAhead);
    switch (at.scheme) {
      case 'postgres':
        return new LogSource(readLog);
      case 'nats':
        return new NatsSource(this.connectionTo(at), { ...followed, readLog }, this.signing);
    }
  }

  /** @param keepHours how long NATS keeps events; the log itself is not affected */
  publisherFor(at: NatsAddress, { log, keepHours }: { log: string; keepHours: number }): EventPublisher {
    const kept = { log, keepHours, isReplicated: at.servers.length >= 3 };
    return new NatsPublisher(this.connectionTo(at), kept, this.signing);
  }

  /** The last hook of a shutdown: readers and publishers finish what is in progress before it. */
  async onApplicationShutdown(): Promise<void> {
    await Promise.all([...this.connections.values()].map((it) => it.close()));
    this.connections.clear();
  }

  private connectionTo(at: NatsAddress): NatsLink {
    const key = JSON.stringify(at);
    const known = this.connections.get(key);
    if (known) return known;
    if (this.connections.size === 0) this.readiness?.add('event-bus', () => Promise.resolve(this.condition()));
    const connection = new NatsLink(at, { title: 'EventBus' });
    this.connections.set(key, connection);
    return connection;
  }

  /** Without NATS nothing is lost: events wait in the log and are read from there. */
  private condition(): Condition {
    const isReached = [...this.connections.values()].every(({ isUp }) => isUp);
    if (!isReached) return { isDegraded: true, details: { nats: 'is unreachable' } };
    if (!this.signing?.hasRefusedLately) return { isDegraded: false, details: {} };
    return { isDegraded: true, details: { nats: 'delivers events that are not signed with SERVICE_SECRET' } };
  }
}

/** Polls the log itself. */
class LogSource<Event extends LogEntry> extends EventSource<Event> {
  constructor(private readonly readLog: ReadLog<Event>) {
    super();
  }

  read(parts: readonly LeasedPart[], limit: number): Promise<Reading<Event>> {
    return fromLog(this.readLog, parts, limit);
  }
}

/** For the modules that publish or follow a log: one bus a process, however many of them there are. */
@Module({ providers: [EventBus], exports: [EventBus] })
export class EventsModule {}
