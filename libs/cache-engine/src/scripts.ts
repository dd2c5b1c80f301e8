import { defineScript, type CommandParser } from 'redis';

/** What Redis decides by itself, each in one step. The two keys of a script lie in one slot. */
const twoKeys = (script: string, transformReply: (reply: unknown) => unknown) =>
  defineScript({
    SCRIPT: script,
    NUMBER_OF_KEYS: 2,
    IS_READ_ONLY: false,
    parseCommand(parser: CommandParser, entry: string, lease: string, ...rest: string[]) {
      parser.pushKey(entry);
      parser.pushKey(lease);
      parser.push(...rest);
    },
    transformReply,
  });

/** In Lua: the version in what is stored, or an empty text where nothing is. */
const versionOfStored = `
  local stored = redis.call('GET', KEYS[1])
  local version = stored and string.match(stored, '^[%+%-]([^|]*)|') or ''`;

export const scripts = {
  /**
   * Gives the lease on a key to whoever is first: only its holder may fill the key. Arguments: token, milliseconds, the
   * version that was seen. What was filled meanwhile is given instead.
   */
  lease: twoKeys(
    `${versionOfStored}
    if stored and version ~= ARGV[3] then return {0, stored} end
    if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {1, false} end
    return {0, false}`,
    (reply) => {
      const [taken, stored] = reply as [number, string | null];
      return { isTaken: taken === 1, stored };
    },
  ),
  /** Stores a value if the lease is still held. Arguments: token, value, milliseconds or 0 for no end. */
  fill: twoKeys(
    `if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
    if ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
    redis.call('DEL', KEYS[2])
    return 1`,
    (reply) => reply === 1,
  ),
  /** Keeps a lease for longer. Arguments: token, milliseconds. */
  renew: twoKeys(
    `if redis.call('GET', KEYS[2]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
    return 0`,
    (reply) => reply === 1,
  ),
  /** Ends a lease without a value. Arguments: token. */
  release: twoKeys(
    `if redis.call('GET', KEYS[2]) == ARGV[1] then return redis.call('DEL', KEYS[2]) end
    return 0`,
    (reply) => reply === 1,
  ),
  /**
   * Stores a value, whatever lies there, and ends the lease: who loads meanwhile is too late. With a fourth argument only
   * where that version lies there, or nothing for an empty text. Arguments: value, milliseconds or 0, version.
   */
  put: twoKeys(
    `if ARGV[3] then
      ${versionOfStored}
      if version ~= ARGV[3] then return 0 end
    end
    if ARGV[2] == '0' then redis.call('SET', KEYS[1], ARGV[1]) else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
    redis.call('DEL', KEYS[2])
    return 1`,
    (reply) => reply === 1,
  ),
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
      return count`,
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
   * has set back does not either. Arguments: the random number, the step (0 to read).
   */
  tagVersion: defineScript({
    SCRIPT: `
      local version = redis.call('GET', KEYS[1])
      if version and ARGV[2] == '0' then return version end
      -- No entry lives longer than a year.
      redis.call('SET', KEYS[1], (version or ARGV[1]) + ARGV[2], 'PX', '31536000000')
      return redis.call('GET', KEYS[1])`,
    NUMBER_OF_KEYS: 1,
    IS_READ_ONLY: false,
    parseCommand(parser: CommandParser, key: string, base: string, step: string) {
      parser.pushKey(key);
      parser.push(base, step);
    },
    transformReply: (reply: unknown) => Number(reply).toString(36),
  }),
};
