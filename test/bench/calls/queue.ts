import { randomUUID } from 'node:crypto';
import { createClient } from '@redis/client';
import type { Serve } from './commands.js';
import type { EchoReply, EchoRequest } from './contract.js';

/**
 * The least that a call over Redis costs if no request may be lost and each goes to one instance: it is added to a stream
 * and read by a group, the reply is published, and then the request is acknowledged and deleted. Request and reply are
 * serialised and parsed once each. There is no framework, validation or deadline, and requests of a dead instance are lost.
 * Whatever is slower cannot blame the queue.
 */
const [stream, group, consumer] = ['bench:requests', 'instances', 'one'];
const readAtOnce = 32;

interface Asked {
  id: number;
  channel: string;
  request: EchoRequest;
}

interface Answered {
  id: number;
  reply: EchoReply;
}

const connected = (url: string) =>
  createClient({ url, commandOptions: { timeout: 0 }, maintNotifications: 'disabled' }).connect();

export const serveByQueue = async ({ at, name }: Serve): Promise<void> => {
  const [reader, commands] = await Promise.all([connected(at), connected(at)]);
  await commands.xGroupCreate(stream, group, '0', { MKSTREAM: true });
  const answer = async (entryId: string, text: string): Promise<void> => {
    const { id, channel, request } = JSON.parse(text) as Asked;
    const reply: EchoReply = { id: request.id, by: name, lines: request.lines };
    await Promise.all([
      commands.publish(channel, JSON.stringify({ id, reply } satisfies Answered)),
      commands.xAck(stream, group, entryId),
      commands.xDel(stream, entryId),
    ]);
  };
  const read = async (): Promise<never> => {
    for (;;) {
      const found = await reader.xReadGroup(group, consumer, { key: stream, id: '>' }, { COUNT: readAtOnce, BLOCK: 0 });
      for (const { id, message } of found?.[0]?.messages ?? []) void answer(id, message['asked']);
    }
  };
  void read();
};

/** @returns a function that makes a call */
export const clientOfQueue = async (url: string): Promise<(request: EchoRequest) => Promise<EchoReply>> => {
  const [replies, requests] = await Promise.all([connected(url), connected(url)]);
  const channel = `bench:replies:${randomUUID()}`;
  const waiting = new Map<number, (reply: EchoReply) => void>();
  await replies.subscribe(channel, (text) => {
    const { id, reply } = JSON.parse(text) as Answered;
    waiting.get(id)!(reply);
    waiting.delete(id);
  });
  let asked = 0;
  return async (request) => {
    const id = (asked += 1);
    const answered = new Promise<EchoReply>((resolve) => void waiting.set(id, resolve));
    await requests.xAdd(stream, '*', { asked: JSON.stringify({ id, channel, request } satisfies Asked) });
    return answered;
  };
};
