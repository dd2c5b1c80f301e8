import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Api, refused } from '../support/api.js';
import { EventStream } from '../support/event-stream.js';
import { Connection, statusesIn } from './connection.js';
import { doorNames, startDoors, type Doors } from './doors.js';

const headersMs = 1_000;
const requestMs = 2_000;
/** Node checks for timeouts twice a second, and the machine may be busy. */
const slackMs = 6_000;
const many = 60;

describe('slow clients', () => {
  let doors: Doors;
  beforeAll(async () => {
    doors = await startDoors({ HTTP_HEADERS_MS: String(headersMs), HTTP_REQUEST_MS: String(requestMs) });
  });
  afterAll(() => doors.stop());

  const heads = (url: string) =>
    `PUT /cache HTTP/1.1\r\nHost: ${new URL(url).host}\r\nContent-Type: application/json\r\n`;

  /** The median latency of another client, which sends requests until `over` resolves. */
  const waitOfOthers = async (url: string, over: Promise<unknown>): Promise<number> => {
    let isOver = false;
    void over.then(() => (isOver = true));
    const api = new Api(url);
    const waits: number[] = [];
    do {
      const startedAt = performance.now();
      expect((await api.send('PUT', '/cache', { body: { key: 'k', value: 1 } })).status).toBe(200);
      waits.push(performance.now() - startedAt);
      await sleep(20);
    } while (!isOver);
    return waits.toSorted((a, b) => a - b)[Math.floor(waits.length / 2)]!;
  };

  describe.each(doorNames)('at the %s', (name) => {
    it.each<[what: string, head: (url: string) => string, dripped: string, limitMs: number]>([
      ['send nothing', () => '', '', headersMs],
      ['never finish the headers', () => 'GET /cache?key=k HTTP/1.1\r\n', 'X-Slow: '.padEnd(1_000, 'a'), headersMs],
      [
        'never finish the body',
        (url) => `${heads(url)}Content-Length: 2000\r\n\r\n`,
        '{"key":"'.padEnd(1_000, 'a'),
        requestMs,
      ],
      [
        'send chunks without end',
        (url) => `${heads(url)}Transfer-Encoding: chunked\r\n\r\n`,
        '1\r\n \r\n'.repeat(200),
        requestMs,
      ],
    ])('that %s are disconnected, while others are served', async (_what, head, dripped, limitMs) => {
      const url = doors.urls[name];
      const slow = await Promise.all(Array.from({ length: many }, () => Connection.open(url)));
      for (const it of slow) {
        it.write(head(url));
        void it.drip(dripped, 50);
      }
      const ends = Promise.all(slow.map((it) => it.closedAfter(limitMs + slackMs)));
      expect(await waitOfOthers(url, ends)).toBeLessThan(1_000);
      for (const ms of await ends) expect(ms).toBeGreaterThan(limitMs - 100);
      // A client that is still sending may not receive the response.
      for (const it of slow) expect([[], [408]]).toContainEqual(statusesIn(it.received));
    });

    it('that send a request within the time limit are answered', async () => {
      const url = doors.urls[name];
      const connection = await Connection.open(url);
      const request = `GET /cache?key=slow HTTP/1.1\r\nHost: ${new URL(url).host}\r\n\r\n`;
      // In few parts, because a busy machine takes several times as long for each pause.
      for (const part of request.match(/[^]{1,15}/g)!) {
        connection.write(part);
        await sleep(50);
      }
      await connection.until((it) => it.includes('key not found'), 30_000);
      expect(statusesIn(connection.received)).toEqual([404]);
      connection.close();
    });
  });

  it('that follow events are not disconnected while no event happens', async () => {
    const stream = await EventStream.open(`${doors.urls.monolith}/events`);
    await sleep(requestMs + 1_500);
    const product = await new Api(doors.urls.monolith).product();
    await new Api(doors.urls.monolith).placed({ customer_id: 'c', product_id: product, quantity: 1 });
    expect((await stream.take(1))[0]!.event).toBe('order.placed');
    stream.close();
  });

  it('receive 408', async () => {
    const connection = await Connection.open(doors.urls.service);
    connection.write('GET /cache?key=k HTTP/1.1\r\n');
    await connection.closedAfter(headersMs + slackMs);
    const text = connection.received.slice(connection.received.indexOf('\r\n\r\n') + 4);
    const headers = new Headers({ 'content-type': /content-type: (\S+)/.exec(connection.received)![1]! });
    refused({ status: 408, headers, text, body: JSON.parse(text) }, '408 request-timeout');
  });
});
