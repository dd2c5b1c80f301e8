import { expect, it } from '@jest/globals';
import { EventFeed, ReadEvents } from '../src/use-cases/read-events.js';

class NoEvents extends EventFeed {
  after = () => Promise.resolve([]);
  log = () => Promise.reject(new Error('nobody asks for it'));
}

it('is followed by each tenant as often as is left to the others, at most, and again by who comes when one has gone', () => {
  const events = new ReadEvents(new NoEvents());
  const followed: { tenant: string; gone: AbortController }[] = [];
  /** Until it is refused. @returns how often, and why no more */
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
  // However many take what they can, the next one has something.
  for (const [tenant, times] of Object.entries({ c: 25, d: 13, e: 6, f: 3, g: 2, last: 1 }))
    expect([tenant, ...follow(tenant)]).toEqual([tenant, times, whyNoMore(tenant)]);
  expect(follow('late')).toEqual([0, 'unavailable']);
  for (const it of followed.filter(({ tenant }) => tenant === 'greedy')) it.gone.abort();
  expect(follow('late')).toEqual([50, 'too-many-requests']);
});

/** Who takes the last one leaves nothing. */
const whyNoMore = (tenant: string): string => (tenant === 'last' ? 'unavailable' : 'too-many-requests');
