import { randomUUID } from 'node:crypto';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, describe, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { EventBus, eventBus, fromLog, type Checkpoint, type EventSource } from '#events';
import { SeededRandom, testSeed, until } from '#testing';
import { readingAhead } from '../src/event-consumer.js';
import { Disturbed, Notes, startLog, testEvent, type LogUnderTest, type TestEvent } from './log-under-test.js';

Logger.overrideLogger(false);

let log: LogUnderTest;
const running: Notes[] = [];

beforeAll(async () => {
  log = await startLog();
});
afterEach(() => Promise.all(running.splice(0).map((it) => it.beforeApplicationShutdown())));
afterAll(() => log?.stop());

const begin = (notes: Notes): void => {
  notes.onApplicationBootstrap();
  running.push(notes);
};

const source = (): EventSource<TestEvent> => ({ read: (parts, limit) => fromLog(log.readLog, parts, limit) });

/** Runs `interrupt` before the effects of a batch are written. */
class Interrupted extends Notes {
  constructor(
    consumer: string,
    private readonly interrupt: (events: readonly TestEvent[], apply: () => Promise<void>) => Promise<void>,
  ) {
    super(log, consumer, source());
  }

  protected override async apply(events: readonly TestEvent[], checkpoint: Checkpoint): Promise<void> {
    await this.interrupt(events, () => super.apply(events, checkpoint));
    await super.apply(events, checkpoint);
  }
}

const start = async (interrupt: ConstructorParameters<typeof Interrupted>[1]): Promise<string> => {
  const consumer = randomUUID();
  await log.checkpoints.begin(consumer);
  begin(new Interrupted(consumer, interrupt));
  return consumer;
};

/** Checks that each event took effect once; a second time would violate the primary key. */
const expectAllSeen = async (consumer: string): Promise<void> => {
  const all = (await log.all()).map((it) => it.sequence);
  await until(async () => (await log.countSeen(consumer)) >= all.length);
  expect((await log.seenBy(consumer)).toSorted()).toEqual(all.toSorted());
};

describe('reading ahead', () => {
  it('skips and repeats nothing while the log grows and sometimes fails', async () => {
    const random = new SeededRandom(testSeed());
    let end = 0;
    let atOnce = 0;
    let most = 0;
    const read = readingAhead<TestEvent>(async (after, limit) => {
      const from = Number(after);
      const to = Math.min(end, from + limit);
      most = Math.max(most, (atOnce += 1));
      await setTimeout(random.integer(0, 3));
      atOnce -= 1;
      if (random.next() < 0.1) throw new Error('the log is away');
      const events = Array.from({ length: to - from }, (_, at) => ({ sequence: String(from + at + 1) }) as TestEvent);
      return { events, until: String(to), isMore: to - from === limit };
    }, 3);
    const seen: number[] = [];
    for (let after = '0', rounds = 0; rounds < 500 || seen.length < end; rounds += 1) {
      if (rounds < 500) end += random.integer(0, 12);
      const page = await read(after, 10).catch(() => undefined);
      if (!page) continue;
      // A consumer that could not apply a page asks for it again.
      if (random.next() < 0.1) continue;
      seen.push(...page.events.map((it) => Number(it.sequence)));
      after = page.until;
      if (random.next() < 0.3) await setTimeout(random.integer(0, 10));
    }
    expect(seen).toEqual(Array.from({ length: end }, (_, at) => at + 1));
    expect(most).toBeGreaterThan(1);
  });

  it('discards pages that were not requested for as long as a lease', async () => {
    jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate'] });
    try {
      const asked: string[] = [];
      const read = readingAhead<TestEvent>(async (after, limit) => {
        asked.push(after);
        return { events: [], until: String(Number(after) + limit), isMore: true };
      }, 3);
      await read('0', 10);
      await setImmediate();
      expect(asked.splice(0)).toEqual(['0', '10', '20', '30']);
      jest.advanceTimersByTime(4_999);
      await read('10', 10);
      await setImmediate();
      expect(asked.splice(0)).toEqual(['40']);
      jest.advanceTimersByTime(5_000);
      await read('20', 10);
      expect(asked[0]).toBe('20');
    } finally {
      jest.useRealTimers();
    }
  });
});

describe('parts that move after pages were read ahead', () => {
  it('are continued by their new holder without a skipped or repeated event', async () => {
    const random = new SeededRandom(testSeed());
    const consumer = randomUUID();
    await log.pool.query('TRUNCATE reader.log, reader.seen');
    await log.checkpoints.begin(consumer);
    const readers = new Map<number, Set<Notes>>();
    const followed = { log: 'test', consumer, schema: testEvent, readLog: log.readLog };
    for (let count = 0; count < 2; count += 1) {
      const source = new EventBus().sourceFor(eventBus.parse('postgres:'), followed);
      begin(new Disturbed(log, consumer, source, random, readers));
    }
    await until(async () => (await log.countHolders(consumer)) === 2);
    for (let round = 0; round < 10; round += 1)
      await log.write(Array.from({ length: 300 }, () => `subject-${random.integer(0, 40)}`));
    await log.expectAllInOrder(consumer);
    expect([...readers.values()].some((it) => it.size > 1)).toBe(true);
    expect(running.flatMap((it) => it.failures)).toEqual([]);
  });
});

describe('a consumer', () => {
  it('reduces its batches if one takes longer than its lease', async () => {
    await log.write(Array.from({ length: 100 }, () => randomUUID()));
    const sizes: number[] = [];
    const consumer: string = await start(async ({ length }) => {
      sizes.push(length);
      if (length <= 20) return;
      await log.pool.query('UPDATE reader.checkpoints SET lease_until = now() WHERE consumer = $1', [consumer]);
    });
    await expectAllSeen(consumer);
    expect(Math.max(...sizes)).toBe(50);
  });

  it('cannot write an abandoned batch late, once it has read the events again', async () => {
    await log.write(Array.from({ length: 20 }, () => randomUUID()));
    let late: (() => Promise<void>) | undefined;
    const refusals: unknown[] = [];
    const consumer = await start(async (events, apply) => {
      if (events.length === 0) return;
      if (!late) {
        late = apply;
        throw new Error('no answer in time');
      }
      // The late write reaches Postgres only now, before the one that repeats it.
      await late().catch((error: unknown) => refusals.push(error));
      late = () => Promise.resolve();
    });
    await expectAllSeen(consumer);
    expect(refusals).toMatchObject([{ code: 'CL001' }]);
  });

  it('reports that the log cannot be read, and reads on once it can', async () => {
    const consumer = randomUUID();
    await log.checkpoints.begin(consumer);
    await log.write([randomUUID()]);
    let isAway = true;
    const { read } = source();
    const notes = new Notes(log, consumer, {
      read: (...asked) => (isAway ? Promise.reject(new Error('the log is away')) : read(...asked)),
    });
    begin(notes);
    await until(async () => notes.failures.length > 0);
    expect(String(notes.failures[0])).toContain('the log is away');
    isAway = false;
    await expectAllSeen(consumer);
  });

  it('fails as long as it has no checkpoints, instead of seeming to have read everything', async () => {
    const consumer = randomUUID();
    const notes = new Notes(log, consumer, source());
    begin(notes);
    await until(async () => notes.failures.length > 0);
    expect(String(notes.failures[0])).toContain(`the consumer ${consumer} has no checkpoints`);
    await log.checkpoints.begin(consumer);
    await log.write([randomUUID()]);
    await expectAllSeen(consumer);
  });
});
