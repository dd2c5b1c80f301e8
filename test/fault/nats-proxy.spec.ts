import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect as connectToNats, type NatsConnection } from '@nats-io/transport-node';
import { eventually, natsOrSkip, startNats, type NatsServer } from '#testing';
import { NatsProxy } from '../support/nats-proxy.js';

const describeNats = await natsOrSkip(describe);

describeNats('the NATS proxy', () => {
  let nats: NatsServer;
  let direct: NatsConnection;
  let proxy: NatsProxy;
  let app: Socket;
  let heard: string;

  beforeAll(async () => {
    nats = await startNats();
    direct = await connectToNats({ servers: nats.url });
    const manager = await jetstreamManager(direct);
    await manager.streams.add({ name: 'kept', subjects: ['kept.>'], storage: 'memory' });
  });
  beforeEach(async () => {
    await (await jetstreamManager(direct)).streams.purge('kept');
    proxy = await NatsProxy.start(nats.url);
    app = connect(Number(new URL(proxy.url).port), '127.0.0.1')
      .setNoDelay(true)
      .on('error', () => undefined);
    heard = '';
    app.setEncoding('utf8').on('data', (text: string) => (heard += text));
    await once(app, 'connect');
    app.write('CONNECT {"verbose":false,"headers":true}\r\nSUB inbox.* 1\r\n');
    await said('PING\r\n', 'PONG');
  });
  afterEach(async () => {
    app.destroy();
    await proxy.stop();
  });
  afterAll(async () => {
    await direct?.close();
    await nats?.stop();
  });

  const said = async (sent: string, answer: string): Promise<void> => {
    app.write(sent);
    await eventually(async () => expect(heard).toContain(answer));
  };
  /** Sends a piece in a separate write. */
  const written = async (piece: string): Promise<void> => {
    await new Promise((resolve) => app.write(piece, resolve));
    await setImmediate();
  };
  const kept = async (): Promise<number> =>
    (await (await jetstreamManager(direct)).streams.info('kept')).state.messages;

  it('forwards messages that it does not catch, with headers or in pieces', async () => {
    const catching = proxy.next({ subject: 'kept.b', moment: 'before' });
    await said('PUB kept.a inbox.1 5\r\nPUB k\r\n', 'MSG inbox.1');
    await said('HPUB kept.a inbox.2 12 14\r\nNATS/1.0\r\n\r\nab\r\n', 'MSG inbox.2');
    for (const byte of 'PUB kept.b inbox.3 4\r\nabcd\r\n') await written(byte);
    await catching;
    expect(await kept()).toBe(2);
  });

  it('catches a message before NATS receives it, and forwards the earlier ones', async () => {
    const catching = proxy.next({ subject: 'kept.', moment: 'before' }, 2);
    app.write('PUB kept.a inbox.1 1\r\na\r\nPUB kept.a inbox.2 1\r\nb\r\n');
    const { cut, outcome } = await catching;
    expect(outcome).toBeUndefined();
    cut();
    await once(app, 'close');
    await eventually(async () => expect(await kept()).toBe(1));
  });

  it('catches a message after NATS has acknowledged it, also if NATS sends others in between', async () => {
    const catching = proxy.next({ subject: 'kept.', moment: 'after' }, 2);
    app.write('SUB loud 2\r\n');
    await said('PUB kept.a inbox.1 1\r\na\r\nPUB loud 1\r\n!\r\nPUB kept.a inbox.2 1\r\nb\r\n', 'MSG loud');
    const { outcome } = await catching;
    expect(outcome).toBe('kept');
    expect(await kept()).toBe(2);
    expect(heard).toContain('inbox.1');
    expect(heard).not.toContain('inbox.2');
  });

  it('reports that NATS has not stored a message', async () => {
    const catching = proxy.next({ subject: 'lost.', moment: 'after' });
    app.write('PUB lost.a inbox.1 1\r\na\r\n');
    // No stream stores it, so the test replies with NATS's error itself.
    direct.publish('inbox.1', '{"error":{"code":503}}');
    expect((await catching).outcome).toBe('failed');
  });
});
