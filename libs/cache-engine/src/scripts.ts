import { defineScript, type CommandParser } from '@redis/client';

/** Of a namespace, where what is stored is no entry. */
export const noVersion = '-';

/** How long the version of a tag is kept, and again whenever it is asked for with less than half of it left. */
const tagMs = 365 * 24 * 3_600_000;

/** What is asked about one key: its entry and its lease, which lie in one slot, and what the script takes beside them. */
export type AboutKey = readonly [entry: string, lease: string, ...rest: string[]];

/** In Lua: the version in what is stored, or an empty text where nothing is. */
const versionOfStored = `
  local stored = redis.call('GET', entry)
  local version = stored and string.match(stored, '^[%+%-]([^|]*)|') or ''`;

const manyKeys = (lua: string, transform: (reply: unknown) => unknown) =>
  defineScript({
    SCRIPT: lua,
    IS_READ_ONLY: false,
    parseCommand(parser: CommandParser, asked: readonly AboutKey[]) {
      parser.push(String(asked.length * 2));
      for (const [entry, lease] of asked) {
        parser.pushKey(entry);
        parser.pushKey(lease);
      }
      for (const [, , ...rest] of asked) parser.push(...rest);
    },
    transformReply: (replies: unknown) =>
      (replies as unknown[]).map((it) => (it instanceof Error ? it : transform(it))),
  });

/**
 * What Redis decides by itself about each of many keys, in their order, each in one step. What fails for one does not
 * fail for the others.
 *
 * @param lua the body of a function of `entry`, `lease` and three arguments, of which as many are sent as `given`; the leases
 *   of what it stores by `store` are over, and taken away at the end in one step
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
   * Gives the lease on a key to whoever is first: only its holder may fill the key. Arguments: token, milliseconds, the
   * version that was seen. What was filled meanwhile is given instead.
   */
  lease: aboutKeys(
    3,
    `${versionOfStored}
    if stored and version ~= third then return {0, stored} end
    if redis.call('SET', lease, first, 'NX', 'PX', second) then return {1, false} end
    return {0, false}`,
    (reply) => {
      const [taken, stored] = reply as [number, string | null];
      return { isTaken: taken === 1, stored };
    },
  ),
  /** Stores a value if the lease is still held. Arguments: token, value, milliseconds or 0 for no end. */
  fill: aboutKeys(
    3,
    `if ended[lease] or redis.call('GET', lease) ~= first then return 0 end
    return store(entry, lease, second, third)`,
    (reply) => reply === 1,
  ),
  /** Keeps a lease for longer. Arguments: token, milliseconds. */
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
   * Stores a value and ends the lease: who loads meanwhile is too late. What lay there goes also where the value is refused,
   * as by a Redis that is full: it is not what is to be read there. Arguments: value, milliseconds or 0. Without a function
   * a key, as nothing is to be decided and that is a fifth of what Redis takes for it.
   */
  put: manyKeys(
    `
      local call, keys, argv, replies, ended = redis.pcall, KEYS, ARGV, {}, {}
      for at = 2, #keys, 2 do
        local ms, reply = argv[at], nil
        if ms == '0' then reply = call('SET', keys[at - 1], argv[at - 1])
        else reply = call('SET', keys[at - 1], argv[at - 1], 'PX', ms) end
        ended[#ended + 1] = keys[at]
        if reply.ok then reply = 1 else ended[#ended + 1] = keys[at - 1] end
        replies[at / 2] = reply
      end
      -- At the end: Redis takes whatever a script writes once it has let it write something.
      redis.call('DEL', unpack(ended))
      return replies`,
    (reply) => reply === 1,
  ),
  /** The same where the version lies there that is the third argument, an empty text for nothing. */
  putIf: aboutKeys(
    3,
    `${versionOfStored}
    if version ~= third then return 0 end
    return store(entry, lease, first, second)`,
    (reply) => reply === 1,
  ),
  /** Takes away an entry and its lease where the version lies there that is the argument, an empty text for nothing. */
  removeIf: aboutKeys(
    1,
    `${versionOfStored}
    if version ~= first then return 0 end
    redis.call('DEL', entry, lease)
    return 1`,
    (reply) => reply === 1,
  ),
  /**
   * Throws away, of some entries, each that was written under the version of the namespace that is told of it. Of those that
   * it leaves it says under which they were written, `noVersion` for what is no entry.
   */
  sweep: defineScript({
    SCRIPT: `
      local left = {}
      for at, entry in ipairs(KEYS) do
        -- The line about the value has room in it, and the value may be large.
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
  /** Counts, and begins the time of a counter with its first step. Arguments: step, milliseconds or 0. */
  count: defineScript({
    SCRIPT: `
      local isNew = redis.call('EXISTS', KEYS[1]) == 0
      local count = redis.call('INCRBY', KEYS[1], ARGV[1])
      -- Beyond it a number of Lua, as one of JavaScript, is not exact.
      if count > 9007199254740991 or count < -9007199254740991 then
        redis.call('DECRBY', KEYS[1], ARGV[1])
        return redis.error_reply('OVERFLOW the counter would leave the safe integers')
      end
      if isNew and ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
      -- As a text: the client reads a number digit by digit, and not exactly where it is one of the largest.
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
   * The version of a tag, counted. A tag that is not known begins at a random number, so that one that Redis has evicted
   * never comes to a version again that entries still carry; and it moves by a random step, so that one that a failover
   * has set back does not either. It goes with what was kept under it when nobody has asked for it for half a year. It is
   * counted up by a Redis that is full as well, in its own place. Arguments: the random number, the step (0 to read).
   */
  tagVersion: defineScript({
    SCRIPT: `
      local version = redis.call('GET', KEYS[1])
      if version and ARGV[2] == '0' then
        -- Seldom: every process is told of it.
        if redis.call('PTTL', KEYS[1]) < ${tagMs / 2} then redis.call('PEXPIRE', KEYS[1], '${tagMs}') end
        return version
      end
      -- What is full takes nothing but in place of what it has let go of.
      if ARGV[2] ~= '0' then redis.call('DEL', KEYS[1]) end
      redis.call('SET', KEYS[1], (version or ARGV[1]) + ARGV[2], 'PX', '${tagMs}')
      local current = redis.call('GET', KEYS[1])
      -- Nothing is kept here under what was not known, so nothing is left of it; but who holds on to what was kept under it
      -- before it was lost is told.
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
