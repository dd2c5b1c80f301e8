import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { jetstream, jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { logBeginning } from '#contracts';
import {
  EventBus,
  EventPublisher,
  eventBus,
  partCount,
  partOf,
  positionOf,
  type Linked,
  type NatsAddress,
} from '#events';
import { ServiceSecrets } from '#security';
import {
  SeededRandom,
  freePort,
  natsOrSkip,
  startNats,
  startNatsCluster,
  until,
  type NatsCluster,
  type NatsServer,
} from '#testing';
import {
  Disturbed,
  Notes,
  Publishes,
  startLog,
  testEvent,
  type LogUnderTest,
  type TestEvent,
} from './log-under-test.js';

const addressOf = (url: string): NatsAddress => eventBus.parse(url) as NatsAddress;

let log: LogUnderTest;
beforeAll(async () => {
  Logger.overrideLogger(false);
  log = await startLog();
});
afterAll(() => log?.stop());

const subjects = Array.from({ length: 40 }, (_, at) => `subject-${at}`);
const random = new SeededRandom();

type Running = Notes | Publishes;
const running: Running[] = [];
const buses: EventBus[] = [];
const start = <Started extends Running>(consumer: Started): Started => {
  consumer.onApplicationBootstrap();
  running.push(consumer);
  return consumer;
};
const stopOne = (consumer: Running) => consumer.beforeApplicationShutdown();

let consumer: string;
/** How often the consumer read the log itself. */
let lookUps: number;
beforeEach(async () => {
  await log.pool.query('TRUNCATE reader.log, reader.seen, reader.checkpoints, reader.readers');
  consumer = randomUUID();
  lookUps = 0;
  await log.checkpoints.begin(consumer);
  await log.checkpoints.begin('bus');
});
afterEach(async () => {
  await finish();
  const stopped = running.splice(0);
  await Promise.all(stopped.map(stopOne));
  await Promise.all(buses.splice(0).map((it) => it.onApplicationShutdown()));
  // Nothing was applied twice and rolled back, and no consumer failed in another way from which it recovered.
  expect(stopped.flatMap((it) => (it instanceof Notes ? it.failures : []))).toEqual([]);
});

/** The bus of a process. */
const newBus = (secrets?: ServiceSecrets): EventBus => {
  const bus = new EventBus(undefined, secrets);
  buses.push(bus);
  return bus;
};
const publisherTo = (at: NatsAddress, secrets?: ServiceSecrets): EventPublisher =>
  newBus(secrets).publisherFor(at, { log: 'test', keepHours: 1 });
const startPublisher = (at: NatsAddress, publisher = publisherTo(at)) => start(new Publishes(log, publisher, 'bus'));
const sourceAt = (at: NatsAddress, secrets?: ServiceSecrets) =>
  newBus(secrets).sourceFor(at, {
    ...{ log: 'test', consumer, schema: testEvent },
    readLog: async (after, limit) => {
      lookUps += 1;
      const page = await log.readLog(after, limit);
      // Counted at its end as well, so that a read in progress is not missed.
      lookUps += 1;
      return page;
    },
  });
const startNotes = (at: NatsAddress, secrets?: ServiceSecrets) =>
  start(new Notes(log, consumer, sourceAt(at, secrets)));

let finish: () => Promise<unknown> = async () => undefined;
/** Runs several writers concurrently until `finish`. */
const beginWriting = (): void => {
  let isOver = false;
  const writer = async (): Promise<void> => {
    while (!isOver) {
      await log.write(Array.from({ length: random.integer(1, 10) }, () => random.pick(subjects)));
      // A pause, because a backlog is not the point and would take time.
      await setTimeout(10);
    }
  };
  const writers = Promise.all([writer(), writer(), writer()]);
  finish = () => {
    isOver = true;
    return writers;
  };
};

const expectAllInOrder = () => log.expectAllInOrder(consumer);

/** Writes until events arrive without the log being read. */
const expectHeard = () =>
  until(async () => {
    const [before, seen] = [lookUps, await log.countSeen(consumer)];
    await log.write(subjects);
    await until(async () => (await log.countSeen(consumer)) >= seen + subjects.length);
    return lookUps === before;
  });

const describeWithNats = await natsOrSkip(describe);

describeWithNats('a log over NATS', () => {
  let nats: NatsServer;
  /** Its servers elect their leaders while the other tests run. */
  let cluster: NatsCluster;
  let at: NatsAddress;
  let connection: NatsConnection;
  let manager: JetStreamManager;

  beforeAll(async () => {
    [nats, cluster] = await Promise.all([startNats(), startNatsCluster(3)]);
    at = addressOf(nats.url);
    connection = await connect({ servers: nats.url, maxReconnectAttempts: -1, reconnectTimeWait: 50 });
    manager = await jetstreamManager(connection);
  });
  afterAll(async () => {
    await connection?.close();
    await Promise.all([nats?.stop(), cluster?.stop()]);
  });
  beforeEach(async () => {
    await manager.streams.delete('cleave-test').catch(() => undefined);
  });

  it('delivers every event once and in order, and without reading the log', async () => {
    await log.write(subjects);
    startPublisher(at);
    startNotes(at);
    await expectHeard();
    beginWriting();
    await until(async () => (await log.countSeen(consumer)) > 2_000);
    await finish();
    await expectAllInOrder();
  });

  it('publishes CloudEvents in structured mode, with the trace and the previous sequence as headers', async () => {
    startPublisher(at);
    await log.write(['one', 'one']);
    await until(async () => (await manager.streams.info('cleave-test').catch(() => undefined))?.state.messages === 2);
    const [first, second] = (await log.all()) as [TestEvent, TestEvent];
    const message = await manager.streams.getMessage('cleave-test', { seq: 2 });
    expect(message?.subject).toBe(`cleave.test.${partOf('one')}`);
    expect(message?.json()).toEqual({ ...second, time: second.time.toISOString() });
    const header = (name: string) => message?.header.get(name);
    expect(header('content-type')).toBe('application/cloudevents+json');
    expect(header('traceparent')).toBe(second.traceparent);
    expect(header('Nats-Msg-Id')).toBe(second.id);
    expect(header('Cleave-Previous')).toBe(first.sequence);
    const { config } = await manager.streams.info('cleave-test');
    expect(config).toMatchObject({ max_age: 3_600_000_000_000, num_replicas: 1, storage: 'file', discard: 'old' });
  });

  it('retains events for the time that the last publisher configures', async () => {
    const prepare = (keepHours: number) => newBus().publisherFor(at, { log: 'test', keepHours }).prepare();
    await Promise.all([1, 1, 1].map(prepare));
    await prepare(2);
    expect((await manager.streams.info('cleave-test')).config.max_age).toBe(7_200_000_000_000);
  });

  it('tolerates duplicates of a publisher that was killed before it moved its checkpoint', async () => {
    const real = publisherTo(at);
    let again = 0;
    const failing = new (class extends EventPublisher {
      prepare = () => real.prepare();
      async publish(events: readonly Linked<TestEvent>[]): Promise<void> {
        await real.publish(events);
        again += 1;
        if (again % 2 === 1) {
          // Under other ids, JetStream does not recognise the duplicates.
          await real.publish(events.map((it) => ({ ...it, event: { ...it.event, id: randomUUID() } })));
          throw new Error('killed');
        }
      }
    })();
    startPublisher(at, failing);
    startNotes(at);
    for (let round = 0; round < 5; round += 1) {
      await log.write(subjects);
      await expectAllInOrder();
    }
  });

  it('reads lost, late and malformed events from the log, and ignores events unknown to the log', async () => {
    const real = publisherTo(at);
    const unreliable = new (class extends EventPublisher {
      prepare = () => real.prepare();
      async publish(events: readonly Linked<TestEvent>[]): Promise<void> {
        const some = events.filter(() => random.integer(0, 9) > 0);
        await real.publish(some.toSorted(() => random.integer(-1, 1)));
        if (some.length > 0) await real.publish([some[0] as Linked<TestEvent>]);
      }
    })();
    startPublisher(at, unreliable);
    startNotes(at);
    await until(async () => (await manager.streams.info('cleave-test').catch(() => undefined)) !== undefined);
    beginWriting();
    const client = jetstream(connection);
    for (let round = 0; round < 20; round += 1) {
      const seen = await log.countSeen(consumer);
      await client.publish(`cleave.test.${random.integer(0, partCount - 1)}`, 'anything');
      const far = positionOf({ xid: '18000000000000000000', id: '1' });
      const [sequence, previous] = [`9${far.slice(1)}`, far];
      await real.publish([
        { event: { id: randomUUID() } as TestEvent, subject: random.pick(subjects), sequence, previous },
      ]);
      await until(async () => (await log.countSeen(consumer)) > seen);
    }
    await finish();
    await expectAllInOrder();
  });

  describe('with signatures', () => {
    const secret = 'known to all services, and to nobody else';
    const secrets = new ServiceSecrets([secret]);
    const strangers: (ServiceSecrets | undefined)[] = [
      undefined,
      new ServiceSecrets(['known to nobody who is asked anything']),
    ];

    it('ignores events that others have published, and continues over NATS', async () => {
      startPublisher(at, publisherTo(at, secrets));
      startNotes(at, secrets);
      await expectHeard();
      beginWriting();
      const client = jetstream(connection);
      const [known] = await log.all();
      for (let round = 0; round < 20; round += 1) {
        const seen = await log.countSeen(consumer);
        const sequence = positionOf({ xid: '18000000000000000000', id: String(round + 1) });
        // A reader that trusted it would jump to the end of all positions.
        const forged = subjects.map((subject): Linked<TestEvent> => {
          const event = { ...known!, id: randomUUID(), subject, sequence };
          return { event, subject, sequence, previous: logBeginning };
        });
        for (const stranger of strangers) await publisherTo(at, stranger).publish(forged);
        const { state } = await manager.streams.info('cleave-test');
        const right = (await manager.streams.getMessage('cleave-test', { seq: state.last_seq - 2 * forged.length }))!;
        // A signed event is not valid in another part, nor with another payload.
        for (const part of Array.from({ length: partCount }, (_, it) => it))
          await client.publish(`cleave.test.${part}`, `${right.string()} `, { headers: right.header });
        await until(async () => (await log.countSeen(consumer)) > seen);
      }
      await finish();
      await expectAllInOrder();
      await expectHeard();
    });

    it('accepts events signed with the previous secret, and reads those with an unknown one from the log', async () => {
      const next = new ServiceSecrets(['takes the place of the one that all know']);
      startNotes(at, new ServiceSecrets(['takes the place of the one that all know', secret]));
      for (const signing of [secrets, next, ...strangers]) {
        const isBelieved = !strangers.includes(signing);
        const publisher = startPublisher(at, publisherTo(at, signing));
        if (isBelieved) await expectHeard();
        const before = lookUps;
        await log.write(subjects);
        await expectAllInOrder();
        if (!isBelieved) expect(lookUps).toBeGreaterThan(before);
        await stopOne(publisher);
      }
    });
  });

  it('delivers an event that is too large for a message', async () => {
    startPublisher(at);
    startNotes(at);
    await expectHeard();
    await log.write(['large'], 'x'.repeat(1_100_000));
    await log.write(['large']);
    await expectAllInOrder();
  });

  it('recovers from the loss of the stream', async () => {
    startPublisher(at);
    startNotes(at);
    await expectHeard();
    beginWriting();
    for (const count of [500, 1_000]) {
      await until(async () => (await log.countSeen(consumer)) > count);
      // Consumers read the log until the publisher has created the stream again.
      await until(() => manager.streams.info('cleave-test').then(Boolean, () => false));
      await manager.streams.delete('cleave-test');
    }
    await expectHeard();
    await finish();
    await expectAllInOrder();
  });

  it('loses and repeats nothing when NATS is killed under load, and reads the log meanwhile', async () => {
    startPublisher(at);
    startNotes(at);
    await expectHeard();
    beginWriting();
    for (let round = 0; round < 3; round += 1) {
      await nats.kill();
      const seen = await log.countSeen(consumer);
      await until(async () => (await log.countSeen(consumer)) > seen + 500);
      await nats.revive();
      await until(async () => (await log.countSeen(consumer)) > seen + 1_000);
    }
    await finish();
    await expectAllInOrder();
    await expectHeard();
    await expectAllInOrder();
  });

  it('starts without NATS, and uses it as soon as it is there', async () => {
    const port = await freePort();
    const later = addressOf(`nats://127.0.0.1:${port}`);
    startPublisher(later);
    startNotes(later);
    await log.write(subjects);
    await expectAllInOrder();
    const own = await startNats({ port });
    try {
      await expectHeard();
      await expectAllInOrder();
    } finally {
      await own.stop();
    }
  });

  it('delivers every event once and in order while instances come and go', async () => {
    const publisher = startPublisher(at);
    const notes = startNotes(at);
    beginWriting();
    const seen = async (more: number): Promise<void> => {
      const before = await log.countSeen(consumer);
      await until(async () => (await log.countSeen(consumer)) > before + more);
    };
    await seen(500);
    const others = [startNotes(at), startNotes(at)];
    startPublisher(at);
    await until(async () => (await log.countHolders(consumer)) === 3);
    await seen(500);
    await Promise.all([stopOne(notes), stopOne(publisher)]);
    await seen(500);
    await stopOne(others[0] as Notes);
    await seen(500);
    await finish();
    await expectAllInOrder();
  });

  it('loses and repeats nothing when parts move after pages of the log were read ahead', async () => {
    startPublisher(at);
    const readers = new Map<number, Set<Notes>>();
    const startDisturbed = () => start(new Disturbed(log, consumer, sourceAt(at), random, readers));
    startDisturbed();
    startDisturbed();
    await until(async () => (await log.countHolders(consumer)) === 2);
    // More than fits into the buffers, so that the log is read.
    await log.write(Array.from({ length: 2_000 }, () => random.pick(subjects)));
    beginWriting();
    await until(async () => (await log.countSeen(consumer)) > 3_000);
    await finish();
    await expectAllInOrder();
    expect([...readers.values()].some((it) => it.size > 1)).toBe(true);
  });

  it('loses and repeats nothing when the leader of three servers is killed under load', async () => {
    const replicated = addressOf(cluster.url);
    startPublisher(replicated);
    startNotes(replicated);
    await expectHeard();
    const own = await connect({ servers: [...replicated.servers] });
    const { streams } = await jetstreamManager(own, { checkAPI: false });
    const { config, cluster: state } = await streams.info('cleave-test');
    await own.close();
    expect(config.num_replicas).toBe(3);
    beginWriting();
    await cluster.servers[Number(state?.leader?.replace('server-', ''))]!.kill();
    await expectHeard();
    await finish();
    await expectAllInOrder();
  });
});
