import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { ErrorReply } from '@redis/client/dist/lib/errors.js';
import { defineScript } from '@redis/client/dist/lib/lua-script.js';
import { whyDistrusted } from '#config';
import { backoffMs } from '#periodic';

/**
 * Requests over Redis: each module has one stream and one consumer group, so that exactly one of its instances reads each
 * request; the reply is published to the channel of the client that asked.
 */
export const group = 'instances';

/** Requests are refused while this many are queued: a backlog that is never worked off only adds latency. */
export const longestQueue = 10_000;

/** Instances give a sign of life this often. */
export const lifeSignMs = 1_000;
/** An instance without a sign of life for this long counts as dead. */
export const aliveMs = 5_000;
/** One without a sign of life for this long is not relied on any more: one that fails takes requests again beside it. */
const overdueMs = 2.5 * lifeSignMs;

export interface QueueKeys {
  /** The stream. */
  requests: string;
  /** Running instances, scored by when their sign of life expires; includes those that are draining. */
  alive: string;
  /** Instances that accept requests, scored likewise. */
  accepting: string;
  /** Those of them that fail, and therefore leave requests to the others, if there are any; scored likewise. */
  failing: string;
}

export const queueKeys = (module: string): QueueKeys => ({
  requests: `cleave:{${module}}:requests`,
  alive: `cleave:{${module}}:alive`,
  accepting: `cleave:{${module}}:accepting`,
  failing: `cleave:{${module}}:failing`,
});

export interface AskedRequest {
  pattern: string;
  /** JSON of the metadata; and `server`, the id of the server, for what must not be carried out twice. */
  meta: string;
  body: string;
  /** The reply is published under this id. */
  id: string;
}

/** The fields of an entry of the stream. */
export interface QueuedRequest extends AskedRequest {
  /** The channel that the reply is published to. */
  channel: string;
}

/** Prefix of channels whose subscriber understands frames, several in one message. */
export const framesChannel = 'cleave:answers:';

/** A reply as it is published to the channel. */
export interface PublishedReply {
  id: string;
  response?: unknown;
  err?: unknown;
  /** For a large response: the key that holds it. */
  responseAt?: string;
}

/**
 * Redis disconnects a subscriber whose output buffer exceeds some megabytes (`client-output-buffer-limit pubsub`). Clients
 * fetch a response of more characters by a command instead, to which no such limit applies.
 */
export const largestPublished = 262_144;

/** Limit of characters in one command, unless a single request or reply is longer: Redis does nothing else while it reads one. */
export const largestAtOnce = 65_536;

/** Length of the strings in a command, each with its length prefix. Counting their bytes would mean to read all of them. */
export const lengthOf = (...parts: readonly string[]): number =>
  parts.reduce((length, part) => length + part.length + 16, 0);

const now = `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

const scripts = {
  /** Adds as many of the requests as there is room for. @returns how many, or 'nobody' if no instance accepts requests */
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

  /**
   * Ends a transaction that has added requests by XADD, and removes again those that there is no room for, before anybody
   * can read them. A script takes twice as long to add a large request itself, because Lua copies it.
   *
   * @returns how many are kept, or 'nobody' if no instance accepts requests
   */
  keepAdded: defineScript({
    NUMBER_OF_KEYS: 2,
    SCRIPT: `${now}
local added = tonumber(ARGV[1])
local accepting = redis.call('ZCOUNT', KEYS[2], now, '+inf')
local kept = math.max(0, math.min(added, ARGV[2] + added - redis.call('XLEN', KEYS[1])))
if accepting == 0 then kept = 0 end
if kept < added then
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', added - kept)) do
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
if accepting == 0 then return 'nobody' end
return kept`,
    parseCommand(parser, { requests, accepting }: QueueKeys, added: number) {
      parser.pushKeys([requests, accepting]);
      parser.push(String(added), String(longestQueue));
    },
    transformReply: (reply: unknown) => reply as 'nobody' | number,
  }),

  /**
   * Renews an instance's sign of life, whether it accepts requests, and whether it fails. In one script, so that of two
   * instances that begin to fail at the same time, the second one learns that it is the last.
   *
   * @returns the time of Redis in ms, and how many other instances accept requests and do not fail; not those whose sign of
   *   life is overdue, because they may have been killed
   */
  showLife: defineScript({
    NUMBER_OF_KEYS: 3,
    SCRIPT: `${now}
for _, key in ipairs(KEYS) do redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. now) end
local expires = now + ARGV[2]
redis.call('ZADD', KEYS[1], expires, ARGV[1])
for at = 2, 3 do redis.call('ZREM', KEYS[at], ARGV[1]) end
local inTime = expires - ARGV[4]
local others = redis.call('ZCOUNT', KEYS[2], inTime, '+inf') - redis.call('ZCOUNT', KEYS[3], inTime, '+inf')
if ARGV[3] ~= 'leaving' then redis.call('ZADD', KEYS[2], expires, ARGV[1]) end
if ARGV[3] == 'failing' then redis.call('ZADD', KEYS[3], expires, ARGV[1]) end
return { now, others }`,
    parseCommand(
      parser,
      { alive, accepting, failing }: QueueKeys,
      instance: string,
      state: 'accepting' | 'failing' | 'leaving',
    ) {
      parser.pushKeys([alive, accepting, failing]);
      parser.push(instance, String(aliveMs), state, String(overdueMs));
    },
    transformReply: (reply: unknown) => {
      const [redisTime, others] = reply as [number, number];
      return { redisTime, others };
    },
  }),
};

const pingMs = 2_000;
/** A connection without an answered ping for this long counts as dead. Pings of a blocked reader are answered afterwards. */
const silenceMs = 8_000;
/** Minimum time between such reconnects, because they may lead to a replica until a new primary is elected. */
const leaveReplicaMs = 1_000;

/** The Redis client, which is loaded only if it is used: it consists of hundreds of files. */
const redisClient = (): typeof import('@redis/client') =>
  createRequire(import.meta.url)('@redis/client') as typeof import('@redis/client');

const newClient = (url: string, role: string) =>
  redisClient().createClient({
    url,
    scripts,
    name: `cleave-${role}-${randomUUID().slice(0, 8)}`,
    disableOfflineQueue: true,
    // Each caller has its own deadline; a timer for each command would only cost time.
    commandOptions: { timeout: 0 },
    maintNotifications: 'disabled',
    pingInterval: pingMs,
    socket: {
      connectTimeout: 1_000,
      // Applies until the connection is ready, because pings start only then.
      socketTimeout: 6_000,
      reconnectStrategy: backoffMs,
    },
  });

export type RedisConnection = ReturnType<typeof newClient>;

/** A connection that reconnects by itself. While it is down, commands fail at once instead of being queued. */
export function redisConnection(url: string, role: string): RedisConnection {
  const connection = newClient(url, role);
  let silence: NodeJS.Timeout | undefined;
  // Not the socket timeout: that restarts with every write, even if the other end is gone.
  const heard = (): void => {
    clearTimeout(silence);
    const why = new Error(`it has not answered for ${silenceMs / 1_000} s`);
    silence = setTimeout(() => renew(connection, why), silenceMs);
  };
  return (
    connection
      .on('ready', heard)
      .on('ping-interval', heard)
      // An ErrorReply to a ping, for example while the server loads its data, is an answer too.
      .on('error', (error) => void (error instanceof ErrorReply && heard()))
      .on('end', () => clearTimeout(silence))
  );
}

/** Drops a connection as if it had been lost and connects anew, possibly to another server. */
function renew(connection: RedisConnection, why: Error): void {
  if (!connection.isReady) return;
  connection.destroy();
  connection.emit('error', why);
  // It retries by itself, and failures are reported by 'error'.
  connection.connect().catch(() => undefined);
}

const leftAt = new WeakMap<RedisConnection, number>();

/** Reconnects if a command failed because the server became a replica: the address then leads to the new primary. */
export function leaveReplica({ message }: Error, ...connections: RedisConnection[]): void {
  if (!message.includes('READONLY')) return;
  const now = performance.now();
  for (const connection of connections) {
    if (now - (leftAt.get(connection) ?? Number.NEGATIVE_INFINITY) < leaveReplicaMs) continue;
    leftAt.set(connection, now);
    renew(connection, new Error('it has become a replica'));
  }
}

/** Starts a connection and waits until it is ready. Rejects at the first failure, but keeps trying in the background. */
export async function open(connection: RedisConnection): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    connection.once('ready', resolve);
    connection.once('error', reject);
    // Rejects only when the connection is destroyed; failed attempts are reported by 'error'.
    connection.connect().catch(reject);
  });
}

/**
 * Identifies the run of the server that the connection leads to: a new one after a failover or a restart. Undefined if the
 * user may not ask for it: INFO is one of the commands that Redis calls dangerous, which many users are denied.
 */
export async function serverIdOf(connection: RedisConnection): Promise<string | undefined> {
  try {
    return /^run_id:(\w+)/m.exec(await connection.info('server'))?.[1];
  } catch (error) {
    if (error instanceof ErrorReply && error.message.startsWith('NOPERM')) return undefined;
    throw error;
  }
}

const askAgainMs = 250;

/**
 * Errors that pass by themselves: too many clients, still loading, no replicas yet, or a replica while the address does not lead to the new
 * primary yet. Any other error reply persists.
 */
const isPassing = /^(?:ERR max number of clients|LOADING|BUSY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS)|READONLY/;

const isRefusal = (error: Error): boolean =>
  error instanceof ErrorReply ? !isPassing.test(error.message) : whyDistrusted(error) !== undefined;

/** For people to read: why Redis is not reached, and what to do if waiting does not help. */
const whyNot = (error: Error): string => {
  const { message, name } = error;
  return /^(?:WRONGPASS|NOAUTH|ERR AUTH)/.test(message)
    ? `${message}: correct the user and the password in its address`
    : (whyDistrusted(error) ?? (message || name));
};

/**
 * Starts a connection and waits until it is ready, for as long as Redis is not reachable.
 *
 * @throws Error with the reason why Redis refuses the connection, or because it was shut meanwhile
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

/** Repeats a command while Redis is unreachable or cannot serve it yet, for example because it is still loading its data. */
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

/** Ends a connection, and an attempt to connect that is under way, which would keep the process alive once it succeeds. */
export function shut(connection: RedisConnection): void {
  connection.on('ready', () => connection.destroy());
  connection.destroy();
}

/** Reports once that a connection is lost and once that it is back. */
export function reportOutages(connection: RedisConnection, report: (message: string) => void): void {
  let isLost = false;
  connection.on('error', (error: Error) => {
    if (!isLost) report(`Redis is unreachable (${whyNot(error)}), trying again until it is`);
    isLost = true;
  });
  // An answered ping, not 'ready': Redis may have been connected but unable to answer, and connections to a replica are
  // replaced every second.
  connection.on('ping-interval', () => {
    if (isLost) report('Redis is reachable again');
    isLost = false;
  });
}
