import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { describe, expect, it } from '@jest/globals';
import { eventually, natsOrSkip, startNats } from '#testing';
import { NatsLink } from '../src/link.js';

const describeNats = await natsOrSkip(describe);

it('a failed attempt to connect leaves no connection to a server that accepts it and then says nothing', async () => {
  const connected = new Set<Socket>();
  let accepted = 0;
  const mute = createServer((socket) => {
    accepted += 1;
    connected.add(socket.on('error', () => undefined).on('close', () => connected.delete(socket)));
    socket.resume();
  }).listen(0, '127.0.0.1');
  await once(mute, 'listening');
  const { port } = mute.address() as AddressInfo;
  const link = new NatsLink({ scheme: 'nats', servers: [`127.0.0.1:${port}`] }, { title: 'NATS' });
  try {
    await expect(link.open()).rejects.toThrow('NATS is unreachable');
    expect(accepted).toBe(1);
    await eventually(async () => expect(connected.size).toBe(0));
  } finally {
    await link.close();
    for (const socket of connected) socket.destroy();
    mute.close();
  }
});

describeNats('a connection that was lost', () => {
  it('leaves none to a server that says nothing when it is closed while it reconnects', async () => {
    const nats = await startNats();
    const connected = new Set<Socket>();
    let isMute = false;
    const front = createServer((socket) => {
      connected.add(socket.on('error', () => undefined).on('close', () => connected.delete(socket)));
      if (isMute) return void socket.resume();
      const behind = connect(nats.port, '127.0.0.1', () => socket.pipe(behind).pipe(socket));
      behind.on('error', () => undefined).on('close', () => socket.destroy());
      socket.on('close', () => behind.destroy());
    }).listen(0, '127.0.0.1');
    await once(front, 'listening');
    const { port } = front.address() as AddressInfo;
    const link = new NatsLink({ scheme: 'nats', servers: [`127.0.0.1:${port}`] }, { title: 'NATS' });
    try {
      await link.open();
      isMute = true;
      const again = once(front, 'connection');
      for (const socket of connected) socket.destroy();
      await again;
      await link.close();
      await eventually(async () => expect(connected.size).toBe(0));
    } finally {
      await link.close();
      for (const socket of connected) socket.destroy();
      front.close();
      await nats.stop();
    }
  });
});
