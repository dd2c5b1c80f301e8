import { EventEmitter } from 'node:events';
import { text } from 'node:stream/consumers';
import { StreamableFile } from '@nestjs/common';
import { expect, it, jest } from '@jest/globals';
import { Cursors } from '#rest';
import type { Caller } from '#security';
import { EventsController } from '../src/transport/events.controller.js';
import { EventFeed, ReadEvents, type OrderEvent } from '../src/use-cases/read-events.js';
import { settled } from './order-under-test.js';

class NoEvents extends EventFeed {
  after = (): Promise<OrderEvent[]> => Promise.resolve([]);
  log = () => Promise.reject(new Error('nobody asks for it'));
}

it('is followed by each tenant as often as is left to the others, at most, and again by who comes when one has gone', () => {
  const events = new ReadEvents(new NoEvents());
  const followed: { tenant: string; gone: AbortController }[] = [];
  /** Follows until it is refused. @returns how often it followed, and why no more */
  const follow = (tenant: string): [number, string] => {
    for (let times = 0; ; times += 1) {
      const gone = new AbortController();
      try {
        events.follow(tenant, undefined, gone.signal);
      } catch (error) {
        return [times, (error as { code: string }).code];
      }
      followed.push({ tenant, gone });
    }
  };
  expect(follow('greedy')).toEqual([100, 'too-many-requests']);
  expect(follow('other')).toEqual([50, 'too-many-requests']);
  // However many followers each tenant takes, the next one gets some.
  for (const [tenant, times] of Object.entries({ c: 25, d: 13, e: 6, f: 3, g: 2, last: 1 }))
    expect([tenant, ...follow(tenant)]).toEqual([tenant, times, whyNoMore(tenant)]);
  expect(follow('late')).toEqual([0, 'unavailable']);
  for (const it of followed.filter(({ tenant }) => tenant === 'greedy')) it.gone.abort();
  expect(follow('late')).toEqual([50, 'too-many-requests']);
});

it('ends for who has waited for five seconds to read, so that nobody follows a log that does not answer', async () => {
  jest.useFakeTimers({ doNotFake: ['nextTick', 'queueMicrotask', 'setImmediate'] });
  try {
    const gate = Promise.withResolvers<OrderEvent[]>();
    const feed = new NoEvents();
    feed.after = () => gate.promise;
    const events = new ReadEvents(feed);
    const gone = new AbortController();
    const follow = () => events.follow('t', undefined, gone.signal).next();
    const reading = [follow(), follow()];
    const waiting = settled(follow());
    await jest.advanceTimersByTimeAsync(5_000);
    expect(await waiting).toMatchObject({ code: 'unavailable' });
    gate.resolve([]);
    for (const it of [...reading, follow()]) expect(await it).toEqual({ done: false, value: [] });
    gone.abort();
  } finally {
    jest.useRealTimers();
  }
});

it('shows who follows that it is there every ten seconds, also where the clock is set back meanwhile', async () => {
  const quiet = new ReadEvents(new NoEvents());
  quiet.follow = async function* () {
    for (let looks = 0; looks < 4; looks += 1) yield await Promise.resolve([]);
  };
  let elapsedMs = 0;
  jest.spyOn(performance, 'now').mockImplementation(() => (elapsedMs += 4_000));
  jest.spyOn(Date, 'now').mockImplementation(() => -elapsedMs);
  try {
    const reply = { raw: new EventEmitter(), header: () => reply };
    const controller = new EventsController(quiet, new Cursors('a secret of tests'));
    const caller = { tenant: 't' } as Caller;
    const answer = await controller.list({}, 'text/event-stream', undefined, reply as never, caller);
    const told = await text((answer as StreamableFile).getStream());
    expect(told.match(/^: .*$/gm)).toEqual([': these are the events of orders', ': nothing new']);
  } finally {
    jest.restoreAllMocks();
  }
});

/** Whoever takes the last place leaves none. */
const whyNoMore = (tenant: string): string => (tenant === 'last' ? 'unavailable' : 'too-many-requests');
