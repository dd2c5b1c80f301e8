import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect, createServer, Server, type AddressInfo, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { describe, expect, it, jest } from '@jest/globals';
import { Injectable, Module, type OnModuleDestroy } from '@nestjs/common';
import { createRestApp, listenAt } from '#rest';
import { eventually, freePort } from '#testing';
import { answerOn } from '../src/connections.js';
import { listenAlsoAt, listenAtAll } from '../src/listening.js';
import { ModuleUnderTest, changed, logInto, slow, standStill, startApp } from './app-under-test.js';

const renewSlow = () => Object.assign(slow, { entered: Promise.withResolvers(), release: Promise.withResolvers() });

/** Sends one request on a connection that the agent keeps alive. */
const ask = async (agent: Agent, port: number, method: string, path: string, host = '127.0.0.1') => {
  const sent = request({ agent, port, host, method, path }).end();
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  response.resume();
  await once(response, 'end');
  return { status: response.statusCode, connection: response.headers.connection };
};

describe('a closing app', () => {
  it('finishes requests in flight at its second address, with Connection: close', async () => {
    renewSlow();
    const { app, port } = await startApp({ drainDelayMs: 60_000 });
    await listenAlsoAt(app.getHttpServer(), otherAddress);
    const [one, other] = [new Agent({ keepAlive: true }), new Agent({ keepAlive: true })];
    expect(await ask(one, port, 'GET', '/things/1', otherAddress)).toEqual({ status: 200, connection: 'keep-alive' });
    const pending = ask(other, port, 'POST', '/trials/slow', otherAddress);
    await slow.entered.promise;
    let closed = false;
    const closing = app.close().then(() => void (closed = true));
    await sleep(50);
    // The app still listens and accepts requests as long as there are connections.
    expect(await ask(one, port, 'GET', '/things/1', otherAddress)).toEqual({ status: 200, connection: 'close' });
    expect(closed).toBe(false);
    slow.release.resolve();
    expect(await pending).toEqual({ status: 201, connection: 'close' });
    await closing;
    await expect(ask(one, port, 'GET', '/things/1', otherAddress)).rejects.toThrow('ECONNREFUSED');
  });

  it('keeps accepting connections of a client that opens one per request', async () => {
    const { app, port } = await startApp({ drainDelayMs: 60_000 });
    const anew = () => ask(new Agent(), port, 'GET', '/things/1');
    await anew();
    const closing = app.close();
    // One after the other, so that there is never a long pause, however busy the machine is.
    for (const until = performance.now() + 300; performance.now() < until;)
      expect(await anew()).toEqual({ status: 200, connection: 'close' });
    await closing;
    await expect(anew()).rejects.toThrow('ECONNREFUSED');
  });

  it('waits for requests in flight at its second address', async () => {
    renewSlow();
    const { app, port, log } = await startApp({ drainTimeoutMs: 20_000 });
    await listenAlsoAt(app.getHttpServer(), otherAddress);
    const idle = connect(port, otherAddress).resume();
    await once(idle, 'connect');
    const pending = ask(new Agent(), port, 'POST', '/trials/slow', otherAddress);
    await slow.entered.promise;
    const closing = app.close().then(() => 'closed');
    await once(idle, 'close');
    expect(await Promise.race([closing, sleep(100, 'waits')])).toBe('waits');
    slow.release.resolve();
    expect(await pending).toEqual({ status: 201, connection: 'close' });
    expect(await closing).toBe('closed');
    expect(log.join('\n')).not.toContain('are cut');
  });

  it('finishes requests in flight while it refuses new connections', async () => {
    renewSlow();
    const { app, port } = await startApp();
    const agent = new Agent({ keepAlive: true });
    const pending = ask(agent, port, 'POST', '/trials/slow');
    await slow.entered.promise;
    let closed = false;
    const closing = app.close().then(() => void (closed = true));
    while (app.getHttpServer().listening) await new Promise(setImmediate);
    await expect(fetch(`http://127.0.0.1:${port}/things/1`)).rejects.toThrow();
    expect(closed).toBe(false);
    slow.release.resolve();
    expect(await pending).toEqual({ status: 201, connection: 'close' });
    await closing;
    agent.destroy();
  });

  it('answers further requests on open connections with Connection: close', async () => {
    const app = await createRestApp(ModuleUnderTest, { logger: logInto([]) });
    const closingBegan = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    app
      .getHttpAdapter()
      .getInstance()
      .addHook('preClose', async () => {
        closingBegan.resolve();
        await goOn.promise;
      });
    await app.listen(0, '127.0.0.1');
    const { port } = app.getHttpServer().address() as { port: number };
    const agent = new Agent({ keepAlive: true });
    const other = new Agent({ keepAlive: true });
    for (const it of [agent, other])
      expect(await ask(it, port, 'GET', '/things/1')).toEqual({ status: 200, connection: 'keep-alive' });
    const closing = app.close();
    await closingBegan.promise;
    expect(await ask(agent, port, 'GET', '/things/1')).toEqual({ status: 200, connection: 'close' });
    expect(await ask(other, port, 'GET', '/%zz')).toEqual({ status: 400, connection: 'close' });
    goOn.resolve();
    await closing;
  });

  it('does not wait for connections that carry no request', async () => {
    const { app, port, log } = await startApp();
    const sockets = [connect(port, '127.0.0.1').resume(), connect(port, '127.0.0.1').resume()];
    await Promise.all(sockets.map((socket) => once(socket, 'connect')));
    const agent = new Agent({ keepAlive: true });
    expect(await ask(agent, port, 'GET', '/things/1')).toMatchObject({ status: 200, connection: 'keep-alive' });
    await Promise.all([app.close(), ...sockets.map((socket) => once(socket, 'close'))]);
    expect(log.join('\n')).not.toContain('are cut');
    agent.destroy();
  });

  /** A connection with its end at the server, over which a request was answered or none was sent yet. */
  const connected = async ({ app, port }: Awaited<ReturnType<typeof startApp>>, isUsed: boolean) => {
    const accepted = once(app.getHttpServer(), 'connection');
    const client = connect(port, '127.0.0.1').setEncoding('utf8');
    const [served] = (await accepted) as [Socket];
    client.on('error', (error) => client.emit('data', error.message));
    if (isUsed) {
      client.write('GET /things/1 HTTP/1.1\r\nhost: localhost\r\n\r\n');
      await once(client, 'data');
      while (answerOn(served) !== null) await sleep(1);
    }
    let received = '';
    client.on('data', (part: string) => void (received += part));
    const send = () =>
      client.write(
        'POST /things HTTP/1.1\r\nhost: localhost\r\ncontent-length: 15\r\n' + jsonFollows + '{"name":"late"}',
      );
    return { client, served, send, received: once(client, 'close').then(() => received) };
  };
  const jsonFollows = 'content-type: application/json\r\n\r\n';

  it.each([
    ['was idle', true],
    ['is new', false],
  ])('answers a request that has arrived when it closes, on a connection that %s', async (_, isUsed) => {
    const started = await startApp();
    const { send, received } = await connected(started, isUsed);
    const server = started.app.getHttpServer();
    const close = server.close.bind(server);
    server.close = (done: () => void) => {
      send();
      close(done);
      // Meanwhile, the next look at idle connections becomes due.
      standStill(1_000);
      return server;
    };
    await started.app.close();
    expect(await received).toMatch(/^HTTP\/1.1 201 Created\r\n/);
  });

  it.each([
    ['was idle', true],
    ['is new', false],
  ])('refuses a request that arrives as it closes the connection, which %s, without effect', async (_, isUsed) => {
    const started = await startApp();
    const { served, send, received } = await connected(started, isUsed);
    changed.length = 0;
    for (const name of ['end', 'destroy'] as const) {
      const original = served[name].bind(served) as (...args: unknown[]) => Socket;
      served[name] = (...args: unknown[]) => {
        Object.assign(served, { end: served.constructor.prototype.end, destroy: served.constructor.prototype.destroy });
        send();
        return original(...args);
      };
    }
    await started.app.close();
    expect(await received).toMatch(/^HTTP\/1.1 503 .*\r\ncleave-full: connections\r\n.*connection: close\r\n/s);
    expect(changed).toEqual([]);
  });

  it.each([
    ['was idle', true],
    ['is new', false],
  ])('does not wait for a request that arrives byte by byte, on a connection that %s', async (_, isUsed) => {
    const started = await startApp({ drainTimeoutMs: 10_000 });
    const { client, received } = await connected(started, isUsed);
    client.write('GET /things/1 HTTP/1.1\r\nhost: localhost\r\nslow: ');
    const sending = setInterval(() => client.write('x'), 1);
    await started.app.close();
    clearInterval(sending);
    expect(started.log.join('\n')).not.toContain('are cut');
    expect(await received).toMatch(/^HTTP\/1.1 503 .*\r\ncleave-full: connections\r\n/s);
  });

  it('leaves no refusal for the next request of a client that does not read meanwhile', async () => {
    const started = await startApp();
    const { client, received } = await connected(started, true);
    client.pause();
    await started.app.close();
    client.write('GET /things/1 HTTP/1.1\r\nhost: localhost\r\n\r\n');
    client.resume();
    await expect(received).rejects.toMatchObject({ syscall: 'write' });
  });

  it('answers clients whose connections wait to be accepted when it closes', async () => {
    const { app, port } = await startApp();
    const asked = Array.from({ length: 10 }, () => ask(new Agent(), port, 'GET', '/things/1'));
    // By then, the kernel has connected them all.
    await new Promise((resolve) => process.nextTick(resolve));
    const [...answers] = await Promise.all([...asked, app.close()]);
    expect(answers.slice(0, -1)).toEqual(asked.map(() => ({ status: 200, connection: 'close' })));
  });

  it.each(['/trials/events', '/trials/undeclared-events'])('ends event streams: %s', async (path) => {
    const { app, url, log } = await startApp();
    const reader = (await fetch(url + path)).body!.getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toBe('data: 1\n\n');
    await Promise.all([app.close(), expect(reader.read()).rejects.toThrow()]);
    expect(log.join('\n')).not.toContain('are cut');
  });

  it('cuts connections after the drain timeout', async () => {
    renewSlow();
    const { app, port, log } = await startApp({ drainTimeoutMs: 50 });
    const pending = fetch(`http://127.0.0.1:${port}/trials/slow`, { method: 'POST' });
    await slow.entered.promise;
    await Promise.all([expect(pending).rejects.toThrow(), app.close()]);
    slow.release.resolve();
    expect(log.join('\n')).toContain('connections are cut');
  });

  it('answers requests in flight before it destroys modules', async () => {
    renewSlow();
    const events: string[] = [];
    @Injectable()
    class Pool implements OnModuleDestroy {
      onModuleDestroy(): void {
        events.push('module destroyed');
      }
    }
    @Module({ imports: [ModuleUnderTest], providers: [Pool] })
    class Root {}
    const app = await createRestApp(Root, { logger: logInto([]) });
    await app.listen(0, '127.0.0.1');
    const { port } = app.getHttpServer().address() as { port: number };
    app
      .getHttpServer()
      .prependListener('request', (_, answer: ServerResponse) => answer.on('finish', () => events.push('answered')));
    const pending = fetch(`http://127.0.0.1:${port}/trials/slow`, { method: 'POST' });
    await slow.entered.promise;
    const closing = app.close();
    slow.release.resolve();
    await Promise.all([pending, closing]);
    expect(events).toEqual(['answered', 'module destroyed']);
  });
});

/** The other address that most machines have for localhost. */
const otherAddress = '::1';

describe('an app at localhost', () => {
  it('is one server with one limit of connections for all addresses', async () => {
    const app = await createRestApp(ModuleUnderTest, { logger: logInto([]), connections: { maxConnections: 4 } });
    await listenAt(app, { HOST: 'localhost', PORT: 0 });
    expect(app.getHttpAdapter().getInstance().addresses()).toHaveLength(1);
    const { port, address } = app.getHttpServer().address() as AddressInfo;
    const taken = address === otherAddress ? '127.0.0.1' : otherAddress;
    // If the machine has both addresses for the name, the app already listens there.
    await listenAlsoAt(app.getHttpServer(), taken).catch(({ code }: NodeJS.ErrnoException) =>
      expect(code).toBe('EADDRINUSE'),
    );
    const sockets = [address, taken, address, taken].map((host) => connect(port, host));
    await Promise.all(sockets.map((socket) => once(socket, 'connect')));
    const askedAt = async (host: string) => (await ask(new Agent(), port, 'GET', '/things/1', host)).status;
    expect([await askedAt(address), await askedAt(taken)]).toEqual([503, 503]);
    for (const socket of sockets) socket.destroy();
    await Promise.all(sockets.map((socket) => once(socket, 'close')));
    await eventually(async () => expect([await askedAt(address), await askedAt(taken)]).toEqual([200, 200]));
    await app.close();
  });

  /** Runs a callback whenever a server is about to listen at an address. */
  const whenListeningAt = (host: string, happens: (port: number) => void) => {
    const { listen } = Server.prototype;
    return jest.spyOn(Server.prototype, 'listen').mockImplementation(function (this: Server, ...args: unknown[]) {
      const [at] = args as [{ host?: string; port?: number }];
      if (at.host === host) happens(at.port as number);
      return Reflect.apply(listen, this, args) as Server;
    });
  };
  const answersAt = (host: string, url: string) =>
    ask(new Agent(), Number(new URL(url).port), 'GET', '/things/1', host).then(({ status }) => status);
  const here = '127.0.0.1';

  it('uses one free port at all addresses, even if the first choice is taken at one of them', async () => {
    const app = await createRestApp(ModuleUnderTest, { logger: logInto([]) });
    const taken = createServer();
    const listening = whenListeningAt(otherAddress, (port) => {
      listening.mockRestore();
      taken.listen({ host: otherAddress, port });
    });
    const url = await listenAtAll(app, [here, otherAddress], 0);
    expect([await answersAt(here, url), await answersAt(otherAddress, url)]).toEqual([200, 200]);
    expect((taken.address() as AddressInfo).port).not.toBe(Number(new URL(url).port));
    await app.close();
    taken.close();
  });

  it.each([0, 'a number'])(
    'listens at the second address if this machine lacks the first, at port %s',
    async (port) => {
      const app = await createRestApp(ModuleUnderTest, { logger: logInto([]) });
      const url = await listenAtAll(app, ['203.0.113.1', here], port === 0 ? port : await freePort());
      expect(await answersAt(here, url)).toBe(200);
      await app.close();
    },
  );

  it('closes all addresses if it is closed while it opens the second', async () => {
    const port = await freePort();
    const app = await createRestApp(ModuleUnderTest, { logger: logInto([]) });
    let closing: Promise<void> | undefined;
    const listening = whenListeningAt(otherAddress, (at) => {
      if (at === port) closing = app.close();
    });
    const url = await listenAtAll(app, [here, otherAddress], port);
    listening.mockRestore();
    expect(url).toBe(`http://${here}:${port}`);
    expect(closing).toBeDefined();
    await closing;
    for (const host of [here, otherAddress]) await expect(answersAt(host, url)).rejects.toThrow('ECONNREFUSED');
  });

  it('does not start if one of its addresses is taken', async () => {
    const taken = createServer().listen({ host: '127.0.0.1', port: 0 });
    await once(taken, 'listening');
    const { port } = taken.address() as AddressInfo;
    const app = await createRestApp(ModuleUnderTest, { logger: logInto([]) });
    await expect(listenAt(app, { HOST: 'localhost', PORT: port })).rejects.toThrow(
      `Cannot serve REST at localhost:${port} (listen EADDRINUSE`,
    );
    await app.close();
    taken.close();
  });
});

it('createRestApp rejects if a provider cannot be created', async () => {
  @Module({
    providers: [
      {
        provide: 'broken',
        useFactory: () => {
          throw new Error('cannot be made');
        },
      },
    ],
  })
  class Broken {}
  await expect(createRestApp(Broken, { logger: logInto([]) })).rejects.toThrow('cannot be made');
});

describe('closeOnSignals', () => {
  const source = pathToFileURL(`${import.meta.dirname}/../src/process.ts`).href;

  /** Runs a program that closes on signals, and returns how it ended and what it printed. */
  const run = async (closing: string, signals: NodeJS.Signals[], options = '{}', pauseMs = 0, before = '') => {
    const program = `
      import { closeOnSignals, endOnSignals } from '${source}';
      ${before}
      closeOnSignals({ close: async () => { console.log('closing'); ${closing} } }, ${options});
      setInterval(() => {}, 1000);
      console.log('started');`;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { cwd: process.cwd() });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        const before = output;
        output += chunk;
        if (!before.includes('started') && output.includes('started')) child.kill(signals[0]);
        if (!before.includes('closing') && output.includes('closing') && signals[1])
          setTimeout(() => child.kill(signals[1]), pauseMs);
      });
    }
    const [code] = (await once(child, 'close')) as [number];
    return { code, output };
  };

  it('closes the app, then runs `after` in order, and exits with 0', async () => {
    const after = `{ after: [async () => console.log('after-one'), async () => console.log('after-two')] }`;
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
      const { code, output } = await run('', [signal], after);
      expect(output.match(/closing|after-\w+|Stopped/g)).toEqual(['closing', 'after-one', 'after-two', 'Stopped']);
      expect(code).toBe(0);
    }
  });

  it('exits with 1 if closing fails, and still runs `after`', async () => {
    const { code, output } = await run(
      `throw new Error('no');`,
      ['SIGTERM'],
      `{ after: [async () => console.log('rest')] }`,
    );
    expect([code, output]).toEqual([1, expect.stringContaining('rest')]);
  });

  it('exits at once at a second signal', async () => {
    const { code, output } = await run('await new Promise(() => {});', ['SIGTERM', 'SIGINT'], '{}', 1_100);
    expect([code, output]).toEqual([1, expect.stringContaining('SIGINT again')]);
  });

  it('ignores an immediate second signal, as npm forwards one that the whole group got', async () => {
    const { code, output } = await run(`await new Promise((it) => setTimeout(it, 400));`, ['SIGTERM', 'SIGTERM']);
    expect([code, output]).toEqual([0, expect.stringMatching(/^(?!.*again).*Stopped/s)]);
  });

  it('handles a signal that came after endOnSignals and before it', async () => {
    const before = `endOnSignals(); process.kill(process.pid, 'SIGTERM');`;
    const { code, output } = await run('', [], '{}', 0, before);
    expect([code, output]).toEqual([0, expect.stringMatching(/closing.*Stopped/s)]);
  });

  it('keeps the listeners of others', async () => {
    const before = `process.on('SIGTERM', () => console.log('heard'));`;
    const { code, output } = await run('', ['SIGTERM'], '{}', 0, before);
    expect([code, output]).toEqual([0, expect.stringContaining('heard')]);
  });

  it('exits with 1 if closing takes too long', async () => {
    const { code, output } = await run('await new Promise(() => {});', ['SIGTERM'], '{ patienceMs: 50 }');
    expect([code, output]).toEqual([1, expect.stringContaining('longer than 50 ms')]);
  });
});
