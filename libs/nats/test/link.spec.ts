import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { NatsLink } from '../src/link.js';

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
