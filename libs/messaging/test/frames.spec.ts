import { describe, expect, it } from '@jest/globals';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { frameOf, packetsIn } from '../src/frames.js';
import { FrameSocket } from '../src/tcp-frames.js';

describe('frames', () => {
  const packets = [
    { id: '1', response: '{"snow":"☃#\\n"}', isDisposed: true },
    { id: '2', err: { code: 'internal', detail: 'two\nlines # and a number' } },
    { id: '3', response: '' },
    { pattern: 'probe.ask', id: '4', data: { meta: { tenant: 'a' }, body: '"12#"' } },
  ];

  it('are parsed from a text that contains several of them', () => {
    expect(packetsIn(packets.map(frameOf).join(''))).toEqual(packets);
    expect(packetsIn('')).toEqual([]);
  });

  it.each(['no frame', '3#{}', '2#{}x', '-1#', '2.5#{}'])('cannot be parsed from malformed text: %s', (text) => {
    expect(() => packetsIn(text)).toThrow(SyntaxError);
  });

  it('of one turn are sent in one write, and large ones at once', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    const [accepted] = (await once(server, 'connection')) as [Socket];
    const written: number[] = [];
    const write = socket.write.bind(socket);
    socket.write = (text: string, ...more: []) => {
      written.push(text.length);
      return write(text, ...more);
    };
    const asking = new FrameSocket(socket, 1_000_000, true);
    const heard: unknown[] = [];
    new FrameSocket(accepted, 1_000_000, true).on('message', (packet: unknown) => heard.push(packet));
    for (const packet of packets) asking.sendMessage(packet);
    expect(written).toEqual([]);
    while (heard.length < packets.length) await once(accepted, 'data');
    expect(heard).toEqual(packets);
    expect(written).toHaveLength(1);
    asking.sendMessage({ id: '5', response: 'x'.repeat(5_000) });
    expect(written).toHaveLength(2);
    // Messages sent in the same turn as `end` are not lost.
    asking.sendMessage({ id: '6', response: '' });
    asking.end();
    await once(accepted, 'end');
    expect(heard).toHaveLength(packets.length + 2);
    accepted.destroy();
    server.close();
  });
});
