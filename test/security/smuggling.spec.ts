import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Api } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { Connection, statusesIn } from './connection.js';
import { doorNames, startDoors, type Doors } from './doors.js';

const quietMs = 400;

const put = (host: string, key: string, fields: string[] = []): string => {
  const body = JSON.stringify({ key, value: 'smuggled' });
  const head = [
    'PUT /cache HTTP/1.1',
    `Host: ${host}`,
    'Content-Type: application/json',
    `Content-Length: ${body.length}`,
  ];
  return `${[...head, ...fields].join('\r\n')}\r\n\r\n${body}`;
};

/** Builds a request whose end is ambiguous, with the request `hidden` inside. */
type Vector = (host: string, hidden: string) => string;

const json = 'Content-Type: application/json';
const outer = '{"key":"outer","value":1}';
const chunk = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`;
const head = (host: string, fields: string[], line = 'PUT /cache HTTP/1.1'): string =>
  [line, `Host: ${host}`, json, ...fields, '', ''].join('\r\n');

/** A body that ends before `hidden` by its chunks and after it by its length; the other fields decide which applies. */
const both = (fields: (length: number) => string[]): Vector => {
  return (host, hidden) => {
    const body = `${chunk(outer)}0\r\n\r\n${hidden}`;
    return head(host, fields(body.length)) + body;
  };
};

/** A body that ends before `hidden` by its length, in a form that some parsers may not understand. */
const lengths = (...values: string[]): Vector => {
  return (host, hidden) =>
    head(
      host,
      values.map((it) => `Content-Length: ${it}`),
    ) +
    outer +
    hidden;
};

const chunked = (body: (hidden: string) => string): Vector => {
  return (host, hidden) => head(host, ['Transfer-Encoding: chunked']) + body(hidden);
};

const inBody = (line: string, ...fields: string[]): Vector => {
  return (host, hidden) => head(host, [`Content-Length: ${hidden.length}`, ...fields], line) + hidden;
};

const n = String(outer.length);

/** None of these may be parsed as two requests. */
const ambiguous: Record<string, Vector> = {
  'Content-Length, then Transfer-Encoding': both((length) => [
    `Content-Length: ${length}`,
    'Transfer-Encoding: chunked',
  ]),
  'Transfer-Encoding, then Content-Length': both((length) => [
    'Transfer-Encoding: chunked',
    `Content-Length: ${length}`,
  ]),
  'Transfer-Encoding in mixed case': both((length) => [`Content-Length: ${length}`, 'tRANSFER-eNCODING: ChUnKeD']),
  'an unknown transfer coding': both((length) => [`Content-Length: ${length}`, 'Transfer-Encoding: xchunked']),
  'chunked not as the last transfer coding': both((length) => [
    `Content-Length: ${length}`,
    'Transfer-Encoding: chunked, identity',
  ]),
  'the transfer coding identity': both((length) => [`Content-Length: ${length}`, 'Transfer-Encoding: identity']),
  'two Transfer-Encoding headers': both((length) => [
    `Content-Length: ${length}`,
    'Transfer-Encoding: identity',
    'Transfer-Encoding: chunked',
  ]),
  'a space before the colon of Transfer-Encoding': both((length) => [
    `Content-Length: ${length}`,
    'Transfer-Encoding : chunked',
  ]),
  'a tab before the colon of Transfer-Encoding': both((length) => [
    `Content-Length: ${length}`,
    'Transfer-Encoding\t: chunked',
  ]),
  'a vertical tab in the transfer coding': both((length) => [
    `Content-Length: ${length}`,
    'Transfer-Encoding: \vchunked',
  ]),
  'the transfer coding on a folded line': both((length) => [
    `Content-Length: ${length}`,
    'Transfer-Encoding:',
    ' chunked',
  ]),
  'Transfer-Encoding after a bare line feed': both((length) => [
    `Content-Length: ${length}`,
    'X: y\nTransfer-Encoding: chunked',
  ]),
  'Transfer-Encoding after a bare carriage return': both((length) => [
    `Content-Length: ${length}`,
    'X: y\rTransfer-Encoding: chunked',
  ]),
  'Transfer-Encoding after NUL': both((length) => [`Content-Length: ${length}`, 'X: y\0Transfer-Encoding: chunked']),
  'Transfer-Encoding on an indented header line': both((length) => [
    ' Transfer-Encoding: chunked',
    `Content-Length: ${length}`,
  ]),
  'a quoted transfer coding': both((length) => [`Content-Length: ${length}`, 'Transfer-Encoding: "chunked"']),
  'two different Content-Length headers': lengths(n, '0'),
  'two equal Content-Length headers': lengths(n, n),
  'a list in Content-Length': lengths(`${n}, ${n}`),
  'a plus sign in Content-Length': lengths(`+${n}`),
  'a negative Content-Length': lengths('-1'),
  'a hexadecimal Content-Length': lengths('0x19'),
  'a space within Content-Length': lengths(`${n[0]} ${n[1]}`),
  'a Content-Length that is not a number': lengths(`${n}a`),
  'an empty Content-Length': lengths(''),
  'a Content-Length beyond 64 bits': lengths('18446744073709551641'),
  'Content-Length on a folded line': (host, hidden) => head(host, ['Content-Length:', ` ${n}`]) + outer + hidden,
  'a negative chunk size': chunked((hidden) => `-1\r\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a chunk size with the prefix 0x': chunked((hidden) => `0x19\r\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a chunk size beyond 64 bits': chunked((hidden) => `ffffffffffffffff19\r\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a chunk size followed by a bare line feed': chunked((hidden) => `19\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a chunk longer than its size': chunked((hidden) => `5\r\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a chunk followed by a bare line feed': chunked((hidden) => `19\r\n${outer}\n0\r\n\r\n${hidden}`),
  'a bare line feed in a chunk extension': chunked((hidden) => `19;a\nb\r\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a bare carriage return in a chunk extension': chunked((hidden) => `19;a\rb\r\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a chunk extension of 40 KB': chunked((hidden) => `19;${'a'.repeat(40_000)}\r\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a space after a chunk size': chunked((hidden) => `19 \r\n${outer}\r\n0\r\n\r\n${hidden}`),
  'a chunked body in HTTP/1.0': (host, hidden) =>
    head(host, ['Transfer-Encoding: chunked'], 'PUT /cache HTTP/1.0') + chunk(outer) + `0\r\n\r\n${hidden}`,
  'all header lines ended by bare line feeds': (host, hidden) =>
    head(host, [`Content-Length: ${n}`]).replaceAll('\r\n', '\n') + outer + hidden,
  'the header section ended by bare line feeds': (host, hidden) =>
    head(host, [`Content-Length: ${n}`]).replace(/\r\n\r\n$/, '\n\n') + outer + hidden,
  'two Host headers': (host, hidden) => head(host, ['Host: other', `Content-Length: ${n}`]) + outer + hidden,
  'Content-Length listed in Connection': (host, hidden) =>
    head(host, ['Connection: Content-Length', `Content-Length: ${n}`]) + outer + hidden,
  'an unknown version of HTTP': (host, hidden) =>
    head(host, [`Content-Length: ${n}`], 'PUT /cache HTTP/1.2') + outer + hidden,
  'no version of HTTP': (_host, hidden) => `GET /cache?key=outer\r\n\r\n${hidden}`,
  'a space within a header name': (host, hidden) =>
    head(host, ['Content -Length: 0', `Content-Length: ${n}`]) + outer + hidden,
  'an empty header name': (host, hidden) => head(host, [': x', `Content-Length: ${n}`]) + outer + hidden,
  'a header line without a colon': (host, hidden) => head(host, ['nothing', `Content-Length: ${n}`]) + outer + hidden,
};

/** These are unambiguous: the hidden request is the body, whether or not it is read. */
const whole: Record<string, Vector> = {
  'a body of GET': inBody('GET /cache?key=outer HTTP/1.1'),
  'a body of an unsupported method': inBody('TRACE /cache HTTP/1.1'),
  'a body for an unknown path': inBody('POST /nothing HTTP/1.1'),
  'a body with an unsupported content encoding': inBody('PUT /cache HTTP/1.1', 'Content-Encoding: gzip'),
  'a body sent without waiting for 100 Continue': inBody(
    'PUT /cache HTTP/1.1',
    'Expect: 100-continue',
    'Content-Encoding: gzip',
  ),
  'a body after an Upgrade header': inBody('PUT /cache HTTP/1.1', 'Connection: Upgrade', 'Upgrade: websocket'),
  'a body after an upgrade to HTTP/2': inBody(
    'PUT /cache HTTP/1.1',
    'Connection: Upgrade, HTTP2-Settings',
    'Upgrade: h2c',
    'HTTP2-Settings: AAMAAABk',
  ),
};

describe('a request that hides another one', () => {
  let doors: Doors;
  beforeAll(async () => {
    doors = await startDoors();
  });
  afterAll(() => doors.stop());

  /** The statuses received until the server is quiet. */
  const answered = async (
    url: string,
    text: string,
    expected = 1,
  ): Promise<{ statuses: number[]; isClosed: boolean }> => {
    const connection = await Connection.open(url);
    connection.write(text);
    await connection.until((it) => statusesIn(it).length >= expected, 3_000);
    for (let before = ''; connection.isOpen && before !== connection.received;) {
      before = connection.received;
      await sleep(quietMs);
    }
    const isClosed = !connection.isOpen;
    connection.close();
    return { statuses: statusesIn(connection.received).filter((it) => it !== 100), isClosed };
  };

  const isCarriedOut = async (key: string): Promise<boolean> => {
    const found = await Promise.all(doorNames.map((name) => new Api(doors.urls[name]).get(`/cache?key=${key}`)));
    return found.some((it) => it.status !== 404);
  };

  it('would be detected here if it were executed', async () => {
    for (const name of doorNames) {
      const key = fresh('seen');
      const { host } = new URL(doors.urls[name]);
      const { statuses } = await answered(doors.urls[name], put(host, fresh('first')) + put(host, key), 2);
      expect([name, statuses]).toEqual([name, [200, 200]]);
      expect(await isCarriedOut(key)).toBe(true);
    }
  });

  /** The outcome at each kind of process. */
  const outcomesOf = (vector: Vector) =>
    Promise.all(
      doorNames.map(async (name) => {
        const key = fresh('hidden');
        const { host } = new URL(doors.urls[name]);
        const outcome = await answered(doors.urls[name], vector(host, put(host, key)));
        return { ...outcome, isCarriedOut: await isCarriedOut(key) };
      }),
    );

  it.each(Object.entries(ambiguous))(
    'is refused by every process, which closes the connection: %s',
    async (_what, vector) => {
      const outcomes = await outcomesOf(vector);
      for (const it of outcomes) expect(it).toEqual({ statuses: [400], isClosed: true, isCarriedOut: false });
    },
  );

  it.each(Object.entries(whole))('counts as a single request everywhere: %s', async (_what, vector) => {
    const outcomes = await outcomesOf(vector);
    for (const { statuses, isCarriedOut: isDone } of outcomes)
      expect([statuses, isDone]).toEqual([outcomes[0]!.statuses, false]);
    expect(outcomes[0]!.statuses).toHaveLength(1);
  });

  it('cannot be injected through a URL or a header', async () => {
    for (const name of doorNames) {
      const key = fresh('injected');
      const { host } = new URL(doors.urls[name]);
      const encoded = encodeURIComponent(` HTTP/1.1\r\nHost: ${host}\r\n\r\n${put(host, key)}`);
      for (const text of [
        `GET /cache?key=${encoded} HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
        `GET /cache/${encoded} HTTP/1.1\r\nHost: ${host}\r\n\r\n`,
        `GET /cache?key=k HTTP/1.1\r\nHost: ${host}\r\nX-Request-Id: ${encoded}\r\n\r\n`,
        `GET /cache?key=k HTTP/1.1\r\nHost: ${host}\r\nTraceparent: a\rb: c\r\n\r\n`,
      ])
        expect((await answered(doors.urls[name], text)).statuses).toHaveLength(1);
      expect(await isCarriedOut(key)).toBe(false);
    }
  });

  it.each(['http://other.example/cache', 'HTTPS://other.example:1/cache'])(
    'may have the absolute URL %s, of which every process uses the path',
    async (target) => {
      for (const name of doorNames) {
        const key = fresh('absolute');
        const { host } = new URL(doors.urls[name]);
        const text = put(host, key).replace('/cache', target);
        expect([name, (await answered(doors.urls[name], text)).statuses]).toEqual([name, [200]]);
        expect(await isCarriedOut(key)).toBe(true);
      }
    },
  );

  it('is executed after an HTTP/1.0 request only with keep-alive', async () => {
    for (const name of doorNames)
      for (const [fields, kept] of [
        [[], false],
        [['Connection: keep-alive'], true],
      ] as const) {
        const key = fresh('old');
        const { host } = new URL(doors.urls[name]);
        const first = put(host, fresh('first'), [...fields]).replace('HTTP/1.1', 'HTTP/1.0');
        const { statuses } = await answered(doors.urls[name], first + put(host, key), kept ? 2 : 1);
        // What follows on a connection that is to be closed makes the request malformed, or is not read.
        expect(kept ? [[200, 200]] : [[200], [400]]).toContainEqual(statuses);
        expect(await isCarriedOut(key)).toBe(kept);
      }
  });

  it('cannot drop end-to-end headers through Connection', async () => {
    for (const name of doorNames)
      for (const field of ['Authorization', 'idempotency-key', 'x, If-Match', 'content-type', 'host,close']) {
        const { host } = new URL(doors.urls[name]);
        const outcome = await answered(doors.urls[name], put(host, fresh('dropped'), [`Connection: ${field}`]));
        expect([name, field, outcome.statuses]).toEqual([name, field, [400]]);
      }
  });
});
