import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient, defineScript, ErrorReply } from '@redis/client';
import { whyDistrusted } from '#config';
import { waitBeforeRetryMs } from '#periodic';

/**
 * How requests travel over Redis. A module has one stream and one consumer group, so that each request is read by exactly
 * one of its instances; the reply is published to the channel of the client that asked.
 */
export const group = 'instances';

/** A client that asks while so many requests wait is refused: a queue that is never worked off helps nobody. */
export const longestQueue = 10_000;

/** An instance that has not shown itself for so long is taken for dead. */
export const aliveMs = 5_000;

export interface QueueKeys {
  /** The stream. */
  requests: string;
  /** Instances that run, by the time their sign of life expires; those that drain included. */
  alive: string;
  /** Instances that take requests, likewise. */
  accepting: string;
}

export const queueKeys = (module: string): QueueKeys => ({
  requests: `cleave:{${module}}:requests`,
  alive: `cleave:{${module}}:alive`,
  accepting: `cleave:{${module}}:accepting`,
});

export interface AskedRequest {
  pattern: string;
  /** JSON of the metadata. */
  meta: string;
  body: string;
  /** Under which the reply is published. */
  id: string;
}

/** The fields of an entry of the stream. */
export interface QueuedRequest extends AskedRequest {
  /** Where the reply is published. */
  channel: string;
}

/** Who listens at a channel of such a name understands frames, several in one message. */
export const framesChannel = 'cleave:answers:';

/** What is published to the channel. */
export interface PublishedReply {
  id: string;
  response?: unknown;
  err?: unknown;
  /** The key that holds the response instead, where it is large. */
  responseAt?: string;
}

/**
 * Redis cuts off a subscriber for whom more than some megabytes wait (`client-output-buffer-limit pubsub`); a response of
 * more characters is fetched by the client, to which no such limit applies.
 */
export const largestPublished = 262_144;

/**
 * More bytes than that are not sent in one command, unless one request or reply has more by itself: Redis does nothing else
 * while it takes them.
 */
export const largestAtOnce = 65_536;

/** As they are written: each with its length in front. */
export const bytesOf = (...parts: readonly string[]): number =>
  parts.reduce((bytes, part) => bytes + Buffer.byteLength(part) + 16, 0);

const now = `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

const scripts = {
  /** Adds requests, as many of the first as there is room for, unless nobody would read them: 'nobody', or how many. */
  addRequests: defineScript({
    NUMBER_OF_KEYS: 2,
    SCRIPT: `${now}
if redis.call('ZCOUNT', KEYS[2], now, '+inf') == 0 then return 'nobody' end
local added = math.min((#ARGV - 2) / 4, tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1]))
for at = 3, 2 + 4 * added, 4 do
  redis.call('XADD', KEYS[1], '*', 'pattern', ARGV[at], 'meta', ARGV[at + 1], 'body', ARGV[at + 2], 'channel', ARGV[2], 'id', ARGV[at + 3])
end
return math.max(added, 0)`,
    parseCommand(parser, { requests, accepting }: QueueKeys, channel: string, asked: readonly AskedRequest[]) {
      parser.pushKeys([requests, accepting]);
      parser.push(String(longestQueue), channel);
      for (const { pattern, meta, body, id } of asked) parser.push(pattern, meta, body, id);
    },
    transformReply: (reply: unknown) => reply as 'nobody' | number,
  }),

  /** Shows that an instance is alive, and whether it takes requests; the time of Redis in ms. */
  showLife: defineScript({
    NUMBER_OF_KEYS: 2,
    SCRIPT: `${now}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
if ARGV[3] == '1' then redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1]) end
return now`,
    parseCommand(parser, { alive, accepting }: QueueKeys, instance: string, isAccepting: boolean) {
      parser.pushKeys([alive, accepting]);
      parser.push(instance, String(aliveMs), isAccepting ? '1' : '0');
    },
    transformReply: (reply: unknown) => reply as number,
  }),
};

const pingMs = 2_000;
/** A connection over which no ping has been answered for so long leads nowhere. A reader is answered once it has waited. */
const silenceMs = 8_000;
/** More than one replica may be met before somebody is the primary. */
const leaveReplicaMs = 1_000;

const newClient = (url: string, role: string) =>
  createClient({
    url,
    scripts,
    name: `cleave-${role}-${randomUUID().slice(0, 8)}`,
    disableOfflineQueue: true,
    // Each caller has its own deadline; a timer a command on top would only cost.
    commandOptions: { timeout: 0 },
    maintNotifications: 'disabled',
    pingInterval: pingMs,
    socket: {
      connectTimeout: 1_000,
      // Until it is ready, as no pings are sent before that.
      socketTimeout: 6_000,
      reconnectStrategy: waitBeforeRetryMs,
    },
  });

export type RedisConnection = ReturnType<typeof newClient>;

/** A connection that reconnects by itself. Commands fail at once while it is down instead of piling up. */
export function redisConnection(url: string, role: string): RedisConnection {
  const connection = newClient(url, role);
  let silence: NodeJS.Timeout | undefined;
  // The timeout of the socket begins anew with all that is sent, be there somebody at the other end or not.
  const heard = (): void => {
    clearTimeout(silence);
    const why = new Error(`it has not answered for ${silenceMs / 1_000} s`);
    silence = setTimeout(() => renew(connection, why), silenceMs);
  };
  return (
    connection
      .on('ready', heard)
      .on('ping-interval', heard)
      // A ping may be refused, as by a server that still reads what it had; that is an answer too.
      .on('error', (error) => void (error instanceof ErrorReply && heard()))
      .on('end', () => clearTimeout(silence))
  );
}

/** Gives up a connection, as if it had been lost, for another one, which may lead to another server. */
function renew(connection: RedisConnection, why: Error): void {
  if (!connection.isReady) return;
  connection.destroy();
  connection.emit('error', why);
  // It goes on trying by itself; failures are told by 'error'.
  connection.connect().catch(() => undefined);
}

const leftAt = new WeakMap<RedisConnection, number>();

/**
 * Lets go of connections where what went wrong is that they lead to a replica: it was the primary when they were made, and
 * whoever is that by now is found by connecting anew.
 */
export function leaveReplica({ message }: Error, ...connections: RedisConnection[]): void {
  if (!message.includes('READONLY')) return;
  const now = performance.now();
  for (const connection of connections) {
    if (now - (leftAt.get(connection) ?? Number.NEGATIVE_INFINITY) < leaveReplicaMs) continue;
    leftAt.set(connection, now);
    renew(connection, new Error('it has become a replica'));
  }
}

/** Starts a connection and waits for it; rejects with the first failure, while it goes on trying by itself. */
export async function open(connection: RedisConnection): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    connection.once('ready', resolve);
    connection.once('error', reject);
    // It ends only when the connection is destroyed; failures on the way are told by 'error'.
    connection.connect().catch(reject);
  });
}

const askAgainMs = 250;

/**
 * It has no room for us, is not there yet for anybody, lacks its replicas, or is one while the address does not lead to the primary yet: all
 * else that it answers does not get better by waiting.
 */
const isPassing = /^(?:ERR max number of clients|LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS)|READONLY/;

const isRefusal = (error: Error): boolean =>
  error instanceof ErrorReply ? !isPassing.test(error.message) : whyDistrusted(error) !== undefined;

/** For people to read: why Redis is not reached, and what to do where waiting does not help. */
const whyNot = (error: Error): string => {
  const { message, name } = error;
  return /^(?:WRONGPASS|NOAUTH|ERR AUTH)/.test(message)
    ? `${message}: correct the user and the password in its address`
    : (whyDistrusted(error) ?? (message || name));
};

/**
 * Starts a connection and waits for it, for as long as Redis is not there.
 *
 * @throws what Redis refuses it with, or that it was shut meanwhile
 */
export async function openPatiently(connection: RedisConnection): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    connection.once('ready', resolve);
    connection.on('error', (error: Error) => {
      if (isRefusal(error)) reject(new Error(whyNot(error), { cause: error }));
    });
    connection.connect().catch(reject);
  });
}

/** Asks again for as long as Redis is away or cannot do it yet, as one that reads what it had before it was started. */
export async function askPatiently<Reply>(connection: RedisConnection, ask: () => Promise<Reply>): Promise<Reply> {
  for (;;)
    try {
      return await ask();
    } catch (error) {
      leaveReplica(error as Error, connection);
      const isAway = !connection.isReady;
      if (!connection.isOpen || (!isAway && (!(error instanceof ErrorReply) || isRefusal(error)))) throw error;
      await sleep(askAgainMs);
    }
}

/** Ends a connection. One that is being made meanwhile is made nevertheless, and would keep the process alive. */
export function shut(connection: RedisConnection): void {
  connection.on('ready', () => connection.destroy());
  connection.destroy();
}

/** Tells once when a connection is lost and once when it is back. */
export function reportOutages(connection: RedisConnection, report: (message: string) => void): void {
  let isLost = false;
  connection.on('error', (error: Error) => {
    if (!isLost) report(`Redis is unreachable (${whyNot(error)}), trying again until it is`);
    isLost = true;
  });
  // Where it was reached all the while, and only could not answer, there is no other sign of it than a ping it answers; and one
  // that is left for being a replica is connected to every second.
  connection.on('ping-interval', () => {
    if (isLost) report('Redis is reachable again');
    isLost = false;
  });
}
