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

it('a tenant may have at most as many event streams as it leaves to others, and closed streams free their places', () => {
  const events = new ReadEvents(new NoEvents());
  const followed: { tenant: string; gone: AbortController }[] = [];
  /** Opens streams until one is refused. @returns how many were opened, and the code of the refusal */
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
  // However many streams each tenant opens, the next tenant still gets some.
  for (const [tenant, times] of Object.entries({ c: 25, d: 13, e: 6, f: 3, g: 2, last: 1 }))
    expect([tenant, ...follow(tenant)]).toEqual([tenant, times, whyNoMore(tenant)]);
  expect(follow('late')).toEqual([0, 'unavailable']);
  for (const it of followed.filter(({ tenant }) => tenant === 'greedy')) it.gone.abort();
  expect(follow('late')).toEqual([50, 'too-many-requests']);
});

it('an event stream fails after it has waited five seconds for its turn to read the log', async () => {
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

it('a quiet event stream sends a keep-alive comment every ten seconds, even if the wall clock is set back', async () => {
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

/** The last tenant has taken the last place of all, so the refusal does not blame it. */
const whyNoMore = (tenant: string): string => (tenant === 'last' ? 'unavailable' : 'too-many-requests');
