import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Agent, request, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import { Injectable, Module, type OnModuleDestroy } from '@nestjs/common';
import { createRestApp } from '#rest';
import { ModuleUnderTest, logInto, slow, startApp } from './app-under-test.js';

const renewSlow = () => Object.assign(slow, { entered: Promise.withResolvers(), release: Promise.withResolvers() });

/** One request on a connection that the agent keeps alive. */
const ask = async (agent: Agent, port: number, method: string, path: string) => {
  const sent = request({ agent, port, host: '127.0.0.1', method, path }).end();
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  response.resume();
  await once(response, 'end');
  return { status: response.statusCode, connection: response.headers.connection };
};

describe('a closing app', () => {
  it('finishes requests in flight, while all they need is still there', async () => {
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

  it('answers what still comes on open connections and says that it was the last', async () => {
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
    expect(await ask(agent, port, 'GET', '/things/1')).toEqual({ status: 200, connection: 'keep-alive' });
    const closing = app.close();
    await closingBegan.promise;
    expect(await ask(agent, port, 'GET', '/things/1')).toEqual({ status: 200, connection: 'close' });
    goOn.resolve();
    await closing;
  });

  it('does not wait for connections that carry no request', async () => {
    const { app, port, log } = await startApp();
    const sockets = [connect(port, '127.0.0.1'), connect(port, '127.0.0.1')];
    await Promise.all(sockets.map((socket) => once(socket, 'connect')));
    const agent = new Agent({ keepAlive: true });
    expect(await ask(agent, port, 'GET', '/things/1')).toMatchObject({ status: 200, connection: 'keep-alive' });
    await Promise.all([app.close(), ...sockets.map((socket) => once(socket, 'close'))]);
    expect(log.join('\n')).not.toContain('are cut');
    agent.destroy();
  });

  it.each(['/trials/events', '/trials/undeclared-events'])('ends what has no end of its own: %s', async (path) => {
    const { app, url, log } = await startApp();
    const reader = (await fetch(url + path)).body!.getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toBe('data: 1\n\n');
    await Promise.all([app.close(), expect(reader.read()).rejects.toThrow()]);
    expect(log.join('\n')).not.toContain('are cut');
  });

  it('waits no longer than it was told to', async () => {
    renewSlow();
    const { app, port, log } = await startApp({ drainTimeoutMs: 50 });
    const pending = fetch(`http://127.0.0.1:${port}/trials/slow`, { method: 'POST' });
    await slow.entered.promise;
    await Promise.all([expect(pending).rejects.toThrow(), app.close()]);
    slow.release.resolve();
    expect(log.join('\n')).toContain('connections are cut');
  });

  it('closes HTTP before it destroys modules', async () => {
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

it('a failing start is one rejection, and the process goes on', async () => {
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

  /** Runs a program that closes on signals and gives back how it ended and what it printed. */
  const run = async (closing: string, signals: NodeJS.Signals[], options = '{}') => {
    const program = `
      import { closeOnSignals } from '${source}';
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
        if (!before.includes('closing') && output.includes('closing') && signals[1]) child.kill(signals[1]);
      });
    }
    const [code] = (await once(child, 'close')) as [number];
    return { code, output };
  };

  it('closes the app, then the rest, and ends with 0', async () => {
    const after = `{ after: [async () => console.log('after-one'), async () => console.log('after-two')] }`;
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      const { code, output } = await run('', [signal], after);
      expect(output.match(/closing|after-\w+|Stopped/g)).toEqual(['closing', 'after-one', 'after-two', 'Stopped']);
      expect(code).toBe(0);
    }
  });

  it('ends with 1 when closing fails, and closes the rest all the same', async () => {
    const { code, output } = await run(
      `throw new Error('no');`,
      ['SIGTERM'],
      `{ after: [async () => console.log('rest')] }`,
    );
    expect([code, output]).toEqual([1, expect.stringContaining('rest')]);
  });

  it('ends at once at a second signal', async () => {
    const { code, output } = await run('await new Promise(() => {});', ['SIGTERM', 'SIGINT']);
    expect([code, output]).toEqual([1, expect.stringContaining('SIGINT again')]);
  });

  it('ends when closing takes too long', async () => {
    const { code, output } = await run('await new Promise(() => {});', ['SIGTERM'], '{ patienceMs: 50 }');
    expect([code, output]).toEqual([1, expect.stringContaining('longer than 50 ms')]);
  });
});
