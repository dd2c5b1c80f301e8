import type { CommandParser } from '@redis/client';
import { defineScript } from '@redis/client/dist/lib/lua-script.js';
import { longestLeaseMs } from './options.js';

/** Stands for the namespace version of a stored value that is not an entry. */
export const noVersion = '-';

/** How long the version of a tag is kept. A read with less than half of it left extends it. */
const tagMs = 365 * 24 * 3_600_000;

/** The arguments for one key: its entry and its lease, which lie in one slot, and further ones of the script. */
export type AboutKey = readonly [entry: string, lease: string, ...rest: string[]];

/** Lua: the version in the stored entry, or an empty string if there is none. A key of another type is no entry. */
const versionOfStored = `
  local stored = redis.pcall('GET', entry)
  if type(stored) ~= 'string' then stored = false end
  local version = stored and string.match(stored, '^[%+%-]([^|]*)|') or ''`;

/** @param transform of the reply about each key; a script may return one reply about all of them instead of a list */
const manyKeys = (lua: string, transform: (reply: unknown) => unknown) =>
  defineScript({
    SCRIPT: lua,
    IS_READ_ONLY: false,
    parseCommand(parser: CommandParser, asked: readonly AboutKey[]) {
      parser.push(String(asked.length * 2));
      // The first key decides where the command is sent. The others are added together, which is faster.
      parser.pushKey(asked[0]![0]);
      const words = [asked[0]![1]];
      for (let at = 1; at < asked.length; at += 1) words.push(asked[at]![0], asked[at]![1]);
      for (const about of asked) for (let at = 2; at < about.length; at += 1) words.push(about[at]!);
      parser.push(...words);
      parser.preserve = asked;
    },
    transformReply: (replies: unknown, asked: unknown) =>
      Array.isArray(replies)
        ? replies.map((it) => (it instanceof Error ? it : transform(it)))
        : (asked as readonly AboutKey[]).map(() => transform(replies)),
  });

/**
 * A script that decides about many keys in order, each atomically. A failure for one key does not affect the others.
 *
 * @param given how many arguments besides the keys are sent for each key
 * @param lua the body of a function of `entry`, `lease` and up to three arguments. It stores values with `store`; the
 *   leases of those keys are deleted at the end with one command
 */
const aboutKeys = (given: 1 | 2 | 3, lua: string, transform: (reply: unknown) => unknown) =>
  manyKeys(
    `
      local ended = {}
      local function store(entry, lease, value, ms)
        if ms == '0' then redis.call('SET', entry, value) else redis.call('SET', entry, value, 'PX', ms) end
        ended[lease] = true
        ended[#ended + 1] = lease
        return 1
      end
      local function about(entry, lease, first, second, third)
        ${lua}
      end
      local replies = {}
      for at = 1, #KEYS / 2 do
        local given = (at - 1) * ${given}
        local isDone, reply =
          pcall(about, KEYS[at * 2 - 1], KEYS[at * 2], ARGV[given + 1], ARGV[given + 2], ARGV[given + 3])
        if not isDone and type(reply) ~= 'table' then reply = redis.error_reply(tostring(reply)) end
        replies[at] = reply
      end
      if #ended > 0 then redis.call('DEL', unpack(ended)) end
      return replies`,
    transform,
  );

export const scripts = {
  /**
   * Grants the lease on a key to the first caller: only its holder may fill the key. Arguments: token, milliseconds, the
   * version that was seen. If the key was filled meanwhile, returns that value instead. A lease with more time left than any
   * is granted for is none: the clock of Redis was set back, or someone else wrote it, and the key could not be filled until
   * it expires.
   */
  lease: aboutKeys(
    3,
    `${versionOfStored}
    if stored and version ~= third then return {0, stored} end
    if redis.call('SET', lease, first, 'NX', 'PX', second) then return {1, false} end
    local left = redis.call('PTTL', lease)
    if left >= 0 and left <= ${longestLeaseMs} then return {0, false} end
    redis.call('SET', lease, first, 'PX', second)
    return {1, false}`,
    (reply) => {
      const [taken, stored] = reply as [number, string | null];
      return { isTaken: taken === 1, stored };
    },
  ),
  /** Stores a value if the lease is still held. Arguments: token, value, milliseconds or 0 for no expiry. */
  fill: aboutKeys(
    3,
    `if ended[lease] or redis.call('GET', lease) ~= first then return 0 end
    return store(entry, lease, second, third)`,
    (reply) => reply === 1,
  ),
  /** Extends a lease. Arguments: token, milliseconds. */
  renew: aboutKeys(
    2,
    `if redis.call('GET', lease) == first then return redis.call('PEXPIRE', lease, second) end
    return 0`,
    (reply) => reply === 1,
  ),
  /** Ends a lease without a value. Arguments: token. */
  release: aboutKeys(
    1,
    `if redis.call('GET', lease) == first then return redis.call('DEL', lease) end
    return 0`,
    (reply) => reply === 1,
  ),
  /**
   * Stores a value and ends the lease, so that loads in progress are too late. If Redis refuses the value, for example
   * because it is full, the old value is removed as well, because it must not be read any more. Arguments: value,
   * milliseconds or 0. Unlike the other scripts, it has no function per key: there is nothing to decide, and the calls
   * would be a fifth of its cost in Redis.
   */
  put: manyKeys(
    `
      local call, keys, argv, ended, refused = redis.pcall, KEYS, ARGV, {}, nil
      for at = 2, #keys, 2 do
        local ms, reply = argv[at], nil
        if ms == '0' then reply = call('SET', keys[at - 1], argv[at - 1])
        else reply = call('SET', keys[at - 1], argv[at - 1], 'PX', ms) end
        ended[at / 2] = keys[at]
        if not reply.ok then
          refused = refused or {}
          refused[at / 2] = reply
        end
      end
      -- Last: once Redis has allowed a script to write, it accepts all of its writes.
      redis.call('DEL', unpack(ended))
      if not refused then return 1 end
      for at = 1, #ended do
        if refused[at] then redis.call('DEL', keys[at * 2 - 1]) end
        refused[at] = refused[at] or 1
      end
      return refused`,
    (reply) => reply === 1,
  ),
  /** Like `put`, but only over the version given as third argument; an empty text means no entry. */
  putIf: aboutKeys(
    3,
    `${versionOfStored}
    if version ~= third then return 0 end
    return store(entry, lease, first, second)`,
    (reply) => reply === 1,
  ),
  /**
   * Removes an entry, and its lease if given, on a master of a cluster. Reports it even if there is no entry: processes may
   * hold one that they read from another master, which the slot has left without the entry.
   */
  remove: defineScript({
    SCRIPT: `
      -- A Redis that is full accepts SET from a script that has begun to write.
      if redis.call('UNLINK', KEYS[1]) == 0 then
        redis.call('SET', KEYS[1], '', 'PX', 1)
        redis.call('UNLINK', KEYS[1])
      end
      if KEYS[2] then redis.call('UNLINK', KEYS[2]) end
      return 1`,
    IS_READ_ONLY: false,
    parseCommand(parser: CommandParser, keys: readonly [entry: string, lease?: string]) {
      parser.push(String(keys.length));
      for (const key of keys) parser.pushKey(key!);
    },
    transformReply: (reply: unknown) => reply,
  }),
  /** Removes an entry and its lease if it has the version given as argument; an empty text means no entry. */
  removeIf: aboutKeys(
    1,
    `${versionOfStored}
    if version ~= first then return 0 end
    redis.call('DEL', entry, lease)
    return 1`,
    (reply) => reply === 1,
  ),
  /**
   * Deletes those of the given entries that were written under the given version of the namespace. For the others it
   * returns the version under which they were written, `noVersion` for anything that is not an entry.
   */
  sweep: defineScript({
    SCRIPT: `
      local left = {}
      for at, entry in ipairs(KEYS) do
        -- The head of an entry fits in this range, and the value may be large.
        local head = redis.pcall('GETRANGE', entry, 0, 255)
        local version = type(head) == 'string' and string.match(head, '^[%+%-][^|]*|[^|]*|[^|]*|[^|]*|([^|]*)|')
        left[at] = version or '${noVersion}'
        if left[at] == ARGV[at] then
          redis.call('UNLINK', entry)
          left[at] = false
        end
      end
      return left`,
    IS_READ_ONLY: false,
    parseCommand(parser: CommandParser, entries: readonly string[], versions: readonly string[]) {
      parser.push(String(entries.length));
      for (const entry of entries) parser.pushKey(entry);
      parser.push(...versions);
    },
    transformReply: (left: unknown) => left as (string | null)[],
  }),
  /** Adds to a counter; the first step sets its expiry. Arguments: step, milliseconds or 0. */
  count: defineScript({
    SCRIPT: `
      local isNew = redis.call('EXISTS', KEYS[1]) == 0
      local count = redis.call('INCRBY', KEYS[1], ARGV[1])
      -- Beyond these, numbers are not exact, in Lua as in JavaScript.
      if count > 9007199254740991 or count < -9007199254740991 then
        redis.call('DECRBY', KEYS[1], ARGV[1])
        return redis.error_reply('OVERFLOW the counter would leave the safe integers')
      end
      if isNew and ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
      -- As text: the client parses integer replies digit by digit and loses precision for the largest ones.
      return string.format('%.0f', count)`,
    NUMBER_OF_KEYS: 1,
    IS_READ_ONLY: false,
    parseCommand(parser: CommandParser, key: string, step: string, ms: string) {
      parser.pushKey(key);
      parser.push(step, ms);
    },
    transformReply: (reply: unknown) => Number(reply),
  }),
  /**
   * The version of a tag, which is a counter. An unknown tag starts at a random number, so that a tag that Redis has
   * evicted never repeats a version that entries still carry; and it advances by a random step, so that a tag that a
   * failover has set back does not either. A tag expires, and with it all entries kept under it, if no one reads it for
   * half a year. A full Redis can still advance it, in its own place. Anything that someone else has written there and that
   * cannot be counted up is no version. Arguments: the random number, the step (0 to read).
   */
  tagVersion: defineScript({
    SCRIPT: `
      local version = redis.pcall('GET', KEYS[1])
      local number = type(version) == 'string' and tonumber(version)
      if not (number and number >= 0 and number < 2^53) then version = false end
      if version and ARGV[2] == '0' then
        -- Done rarely, because every write notifies all processes.
        if redis.call('PTTL', KEYS[1]) < ${tagMs / 2} then redis.call('PEXPIRE', KEYS[1], '${tagMs}') end
        return version
      end
      -- A Redis that is full accepts SET only from a script that has begun to write, which PEXPIRE always may, even in vain.
      -- DEL would not do: while the slot of the tag migrates, its master refuses to create a key that it no longer has.
      if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], '${tagMs}') end
      redis.call('SET', KEYS[1], (version or ARGV[1]) + ARGV[2], 'PX', '${tagMs}')
      local current = redis.call('GET', KEYS[1])
      -- Nothing is cached under a tag that had no version, so no key is left behind. But the write notifies processes that
      -- still hold values from before the version was lost.
      if not version and ARGV[2] ~= '0' then redis.call('DEL', KEYS[1]) end
      return current`,
    NUMBER_OF_KEYS: 1,
    IS_READ_ONLY: false,
    parseCommand(parser: CommandParser, key: string, base: string, step: string) {
      parser.pushKey(key);
      parser.push(base, step);
    },
    transformReply: (reply: unknown) => Number(reply).toString(36),
  }),
};
