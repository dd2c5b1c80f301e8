import { createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { setTimeout } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { freePort } from '#testing';
import { AddressGuard, isPublic, type HostAddress } from '../src/adapters/address-guard.js';
import { HttpSender } from '../src/adapters/http-sender.js';
import { Receiver, answering } from './receiver.js';

let receiver: Receiver;
let senders: HttpSender[];

beforeAll(async () => {
  receiver = await new Receiver().start();
});
afterAll(() => receiver.stop());
beforeEach(() => {
  receiver.received.length = 0;
  receiver.answer = answering(200);
  senders = [];
});
afterEach(() => senders.forEach((it) => it.onApplicationShutdown()));

const senderWith = (guard: AddressGuard, timeoutMs = 10_000): HttpSender => {
  const sender = new HttpSender(guard, timeoutMs);
  senders.push(sender);
  return sender;
};
const open = (timeoutMs?: number): HttpSender => senderWith(new AddressGuard(true), timeoutMs);
const send = (sender: HttpSender, url: string, body = '{}') => sender.send(url, { 'webhook-id': 'msg_1' }, body);
const addresses = (...texts: string[]): HostAddress[] =>
  texts.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));

describe('a message', () => {
  it('arrives unchanged, and its response is returned', async () => {
    receiver.answer = answering(201, {}, 'thank you');
    const body = JSON.stringify({ text: 'ä 🦊' });
    const answer = await send(open(), receiver.url('/path?query=1'), body);
    expect(answer).toEqual({ status: 201, error: null, snippet: 'thank you', retryAfter: null });
    expect(receiver.received).toMatchObject([
      {
        path: '/path?query=1',
        body,
        headers: {
          'webhook-id': 'msg_1',
          'content-type': 'application/json',
          'content-length': String(Buffer.byteLength(body)),
          'user-agent': 'Cleave-Webhooks/1',
        },
      },
    ]);
  });

  it.each([200, 204, 299])('counts as accepted if the response is %s', async (status) => {
    receiver.answer = answering(status);
    expect(await send(open(), receiver.url())).toMatchObject({ status, error: null });
  });

  it.each([400, 404, 410, 429, 500, 503, 599])('counts as failed if the response is %s', async (status) => {
    receiver.answer = answering(status, { 'retry-after': '7' });
    const told = { status, error: `answered ${status}`, retryAfter: '7' };
    expect(await send(open(), receiver.url())).toMatchObject(told);
  });

  it.each([300, 301, 302, 303, 304, 307, 308])('is not sent to the location of a %s redirect', async (status) => {
    receiver.answer = answering(status, { location: receiver.url('/elsewhere') });
    expect(await send(open(), receiver.url())).toMatchObject({
      status,
      error: `answered ${status}; redirects are not followed`,
    });
    expect(receiver.received.map(({ path }) => path)).toEqual(['/']);
  });

  it('is sent over an existing connection', async () => {
    const [sender, before] = [open(), receiver.sockets.size];
    for (let count = 0; count < 5; count += 1) {
      await send(sender, receiver.url());
      await setTimeout(5);
    }
    expect(receiver.sockets.size - before).toBe(1);
  });

  it('is sent once more if a reused connection was closed, but not if a new one was', async () => {
    const sender = open();
    await send(sender, receiver.url());
    receiver.answer = (response, { path }) => {
      if (path === '/first' && receiver.at('/first').length === 1) response.socket!.destroy();
      else response.end();
    };
    await setTimeout(5);
    expect(await send(sender, receiver.url('/first'))).toMatchObject({ status: 200 });
    // On a new connection there is no retry, because the message may have arrived.
    receiver.received.length = 0;
    expect(await send(open(), receiver.url('/first'))).toMatchObject({
      status: null,
      error: 'the connection was closed without an answer',
    });
  });
});

describe('a response', () => {
  it('is awaited for no longer than the timeout', async () => {
    receiver.answer = () => {};
    expect(await send(open(100), receiver.url())).toEqual({
      ...{ status: null, error: 'no answer within 100 ms', snippet: null, retryAfter: null },
    });
  });

  it('counts by its status, even if its body never ends', async () => {
    receiver.answer = (response) => void response.writeHead(200).write('so far');
    expect(await send(open(200), receiver.url())).toMatchObject({ status: 200, error: null, snippet: 'so far' });
  });

  it('is read only until its snippet is complete', async () => {
    let written = 0;
    const chunks = function* () {
      for (; written < 1e9; written += 65_536) yield 'x'.repeat(65_536);
    };
    receiver.answer = (response) => {
      const body = Readable.from(chunks());
      body.pipe(response.writeHead(500)).once('close', () => body.destroy());
    };
    const { snippet, error } = await send(open(), receiver.url());
    expect(error).toBe('answered 500');
    expect(snippet).toBe('x'.repeat(500));
    expect(written).toBeLessThan(1e8);
  });

  it('that is not valid UTF-8 yields a snippet with replacement characters', async () => {
    receiver.answer = (response) => void response.end(Buffer.from([0x61, 0, 0xff, 0xc3, 0x62]));
    const { snippet } = await send(open(), receiver.url());
    expect(snippet).toBe('a\ufffd\ufffdb');
    receiver.answer = answering(200, {}, `${'x'.repeat(499)}🦊`);
    expect((await send(open(), receiver.url())).snippet).toBe(`${'x'.repeat(499)}\ufffd`);
  });

  it('that is not HTTP is reported as a failed request', async () => {
    const server = createServer((socket) => void socket.on('error', () => {}).end('220 mail.example.com ESMTP\r\n'));
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const { port } = server.address() as AddressInfo;
    expect(await send(open(), `http://127.0.0.1:${port}/`)).toMatchObject({
      status: null,
      error: 'the request failed with HPE_INVALID_CONSTANT',
    });
    server.close();
  });

  it('is reported as refused if nothing listens', async () => {
    const told = { status: null, error: 'the connection was refused' };
    expect(await send(open(), `http://127.0.0.1:${await freePort()}/`)).toMatchObject(told);
  });
});

describe('isPublic', () => {
  it.each([
    ...['0.0.0.0', '10.0.0.1', '10.255.255.255', '100.64.0.1', '100.127.255.255', '127.0.0.1', '127.255.255.254'],
    ...['169.254.169.254', '172.16.0.1', '172.31.255.255', '192.0.0.1', '192.0.2.1', '192.168.0.1', '198.18.0.1'],
    ...['198.19.255.255', '198.51.100.1', '203.0.113.1', '224.0.0.1', '239.1.1.1', '240.0.0.1', '255.255.255.255'],
    ...[
      '::',
      '::1',
      '::ffff:127.0.0.1',
      '::ffff:8.8.8.8',
      '::ffff:a00:1',
      '::7f00:1',
      '64:ff9b::7f00:1',
      '64:ff9b:1::1',
    ],
    ...['100::1', '2001::1', '2001:db8::1', '2002:7f00:1::1', '3fff::1', 'fc00::1', 'fd12:3456::1', 'fe80::1'],
    ...['fe80::1%eth0', 'fec0::1', 'ff02::1', '', 'example.com'],
  ])('is false for %j', (address) => expect(isPublic(address)).toBe(false));

  it.each([
    ...['1.1.1.1', '8.8.8.8', '9.255.255.255', '11.0.0.1', '100.63.255.255', '100.128.0.1', '126.255.255.255'],
    ...['172.15.255.255', '172.32.0.1', '192.167.255.255', '192.169.0.1', '223.255.255.255'],
    ...['2001:4860:4860::8888', '2606:4700:4700::1111', '2a00:1450::1'],
  ])('is true for %s', (address) => expect(isPublic(address)).toBe(true));
});

describe('a private address', () => {
  const guard = new AddressGuard(false, () => Promise.reject(new Error('nobody is asked')));

  it.each([
    ...['https://127.0.0.1/', 'https://127.1/', 'https://0x7f.1/', 'https://2130706433/', 'https://0177.0.0.1/'],
    ...['https://10.1.2.3:8443/', 'https://169.254.169.254/latest/meta-data', 'https://[::1]/', 'https://[::]/'],
    ...['https://[::ffff:127.0.0.1]/', 'https://[::ffff:7f00:1]/', 'https://[64:ff9b::7f00:1]/', 'https://[fd00::1]/'],
    ...[
      'https://localhost/',
      'https://LOCALHOST:8080/',
      'https://localhost./',
      'https://a.localhost/',
      'https://127.0.0.1./',
    ],
  ])('is refused in %s, at registration and at sending', async (url) => {
    const error = 'Webhooks are not sent to private addresses.';
    expect(guard.faultOf(new URL(url))).toBe(error);
    expect(await send(senderWith(guard), url)).toMatchObject({ status: null, error });
  });

  it('is refused if a host name resolves to it, alone or among others', async () => {
    for (const found of [
      ['127.0.0.1'],
      ['8.8.8.8', '10.0.0.1'],
      ['2001:4860:4860::8888', '::1'],
      ['::ffff:127.0.0.1'],
    ]) {
      const resolved = new AddressGuard(false, async () => addresses(...found), [443, receiver.port]);
      expect(resolved.faultOf(new URL('https://merchant.test'))).toBeUndefined();
      expect(await send(senderWith(resolved), `https://merchant.test:${receiver.port}/`)).toMatchObject({
        status: null,
        error: 'the host name resolves to a private address',
      });
    }
    expect(receiver.received).toEqual([]);
  });

  it('cannot be reached by DNS rebinding: the host name is resolved only once', async () => {
    let asked = 0;
    const rebinding = new AddressGuard(true, async () => addresses(asked++ === 0 ? '127.0.0.1' : '192.0.2.1'));
    const answer = await send(senderWith(rebinding), `http://merchant.test:${receiver.port}/`);
    expect(answer).toMatchObject({ status: 200 });
    expect([asked, receiver.received[0]!.headers['host']]).toEqual([1, `merchant.test:${receiver.port}`]);
  });

  it('is sent to if private addresses are allowed, also by host name and over http', async () => {
    for (const host of ['127.0.0.1', 'localhost'])
      expect(await send(open(), `http://${host}:${receiver.port}/`)).toMatchObject({ status: 200 });
  });
});

it('webhooks are sent to public addresses over https only', async () => {
  const guard = new AddressGuard(false, async () => addresses('8.8.8.8'));
  const error = 'Webhooks are sent over https only.';
  expect(guard.faultOf(new URL('http://example.com/'))).toBe(error);
  expect(await send(senderWith(guard), 'http://example.com/')).toMatchObject({ status: null, error });
  expect(guard.faultOf(new URL('https://example.com:8443/a?b=c'))).toBeUndefined();
});

it('webhooks are sent to the ports 443 and 8443 only, or to those that are configured', async () => {
  const resolve = async () => addresses('8.8.8.8');
  const error = 'Webhooks are sent to the ports 443 and 8443 only.';
  for (const port of [22, 25, 80, 6379, 5432, 65_535]) {
    const url = `https://example.com:${port}/`;
    expect(new AddressGuard(false, resolve).faultOf(new URL(url))).toBe(error);
    expect(await send(senderWith(new AddressGuard(false, resolve)), url)).toMatchObject({ status: null, error });
    expect(new AddressGuard(false, resolve, [port]).faultOf(new URL(url))).toBeUndefined();
  }
  expect(new AddressGuard(false, resolve, [8443]).faultOf(new URL('https://example.com/'))).toBeDefined();
});

it.each([
  [{ code: 'ENOTFOUND', syscall: 'queryA' }, 'the host name has no address'],
  [{ code: 'ENODATA', syscall: 'queryA' }, 'the host name has no address'],
  [{ code: 'ECONNREFUSED', syscall: 'queryA' }, 'the host name could not be resolved'],
  [{ code: 'EAI_AGAIN', syscall: 'getaddrinfo' }, 'the host name could not be resolved'],
])('the DNS error %j is reported as "%s"', async (fault, error) => {
  const nowhere = new AddressGuard(false, () => Promise.reject(Object.assign(new Error('no'), fault)));
  expect(await send(senderWith(nowhere), 'https://nowhere.test/')).toMatchObject({ status: null, error });
});
