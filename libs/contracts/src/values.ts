import { z } from 'zod';

/** The limits of the public API. Everything has one. */
export const limits = {
  idLength: 128,
  /** Of a path parameter: above the longest id with every character encoded, so that a schema refuses longer ids. */
  parameterLength: 128 * 12,
  keyLength: 255,
  textLength: 500,
  lines: 2_000,
  adjustments: 100,
  quantity: 1_000_000,
  unitPriceMinor: 100_000_000_000,
  onHand: 1_000_000_000_000,
  page: 200,
  defaultPage: 50,
  batch: 1_000,
  logPage: 5_000,
  paymentOperations: 1_000,
  metadataBytes: 16_384,
  nesting: 32,
  bodyBytes: 1_048_576,
  headers: 100,
  headerBytes: 16_384,
  cacheBatchCharacters: 16_777_216,
  cacheKeyBytes: 1_024,
  refusalKeptMs: 7 * 24 * 3_600_000,
  cacheNamespaceBytes: 512,
  cacheTags: 64,
  cacheTtlMs: 365 * 24 * 3_600_000,
  cacheLeaseMs: 60_000,
  cacheLeaseBytes: 16_384,
  urlLength: 2_000,
  keys: 1_000,
  webhookEndpoints: 50,
  webhookPayloadBytes: 20_000,
  webhookTestsAMinute: 10,
  webhookTestsAMinuteOfTenant: 60,
  webhookRedeliveriesAMinute: 60,
  webhooksKeptMs: 30 * 24 * 3_600_000,
} as const;

/** Postgres stores neither NUL nor lone surrogates in text, so they are refused where they enter. */
const isStorable = (text: string): boolean => !text.includes('\0') && text.isWellFormed();
const storableMessage = 'must not contain NUL or unpaired surrogates';

/** A text that Postgres can keep. */
export const text = (maximum: number, minimum = 0) => {
  const error = `must be a string of ${minimum > 0 ? `${minimum} to` : 'at most'} ${maximum} characters`;
  return z.string(error).min(minimum, error).max(maximum, error).refine(isStorable, storableMessage);
};

/** A whole number within bounds. Every violation is reported with the same message. */
export const wholeNumber = (minimum: number = Number.MIN_SAFE_INTEGER, maximum: number = Number.MAX_SAFE_INTEGER) => {
  const error = `must be a whole number from ${minimum} to ${maximum}`;
  // A number beyond 2^53 also violates the bounds: report it once.
  return z.int({ error, abort: true }).min(minimum, error).max(maximum, error);
};

const callerIdMessage = `must be a string of 1 to ${limits.idLength} characters (no NUL, no unpaired surrogates) or an integer`;

/** An id chosen by the caller: 1 to 128 characters, case-sensitive; an integer is taken as its decimal string. */
export const callerId = z
  .union([text(limits.idLength, 1), z.int(callerIdMessage)], callerIdMessage)
  .transform(String)
  .meta({ description: 'Case-sensitive. An integer is treated as its decimal string.' });

/** The same id where it can only be text: in a path, in a reply, between modules. */
export const idText = text(limits.idLength, 1);
/** In a path, with an example that exists in a fresh embedded database. */
export const productIdParameter = idText.meta({ examples: ['demo-mug'] });
/** In a path. Text that cannot be an order id gets the same answer as an unknown order id. */
export const orderIdParameter = z.string().meta({ description: 'The `order_id` of the order.' });

export const quantity = wholeNumber(1, limits.quantity);

/** An amount of money in minor units (pence, cents): an integer whose magnitude stays below 2^53. */
export const amountMinor = wholeNumber();
export const nonNegativeAmountMinor = wholeNumber(0);
export const unitPriceMinor = wholeNumber(0, limits.unitPriceMinor);

const currencyMessage = 'must be an ISO 4217 code such as GBP';
const currenciesInUse = new Set(Intl.supportedValuesOf('currency'));

/** An ISO 4217 code as it is stored and returned, even if it has gone out of use since. */
export const currency = z.string(currencyMessage).regex(/^[A-Z]{3}$/, { error: currencyMessage, abort: true });
/** A code in a request: it must be in use. */
export const givenCurrency = currency.refine((code) => currenciesInUse.has(code), currencyMessage);

/** A moment: RFC 3339 text in UTC with milliseconds on the wire, a Date in the program. */
export const moment = z.codec(z.iso.datetime(), z.date(), {
  decode: (wire) => new Date(wire),
  encode: (date) => date.toISOString(),
});

const boundMessage = 'must be an RFC 3339 timestamp with an offset, such as 2026-11-28T00:00:00Z; in a URL, + is %2B';

/**
 * A moment in a request that bounds a range of stored ones. These are whole milliseconds, so the bound is rounded up to the
 * next one: the same of them are before it, and the same are not.
 */
export const momentBound = z.iso
  .datetime({ offset: true, error: boundMessage, abort: true })
  // Zod also takes a time without seconds, and any number of digits.
  .refine((wire) => /T\d\d:\d\d:\d\d(\.\d{1,9})?[Z+-]/.test(wire), boundMessage)
  .transform((wire) => new Date(Date.parse(wire) + (/\.\d{3}\d*[1-9]/.test(wire) ? 1 : 0)));

/** How deep a JSON value is nested: 0 for a scalar. Iterative, so that depth cannot exhaust the stack. */
export const nestingOf = (value: unknown): number => {
  let depth = 0;
  let level: unknown[] = [value];
  for (;;) {
    // Not `push(...values)`: the arguments for a long list would exhaust the stack as well.
    const next = level.flatMap((item) =>
      item !== null && typeof item === 'object' ? (Object.values(item) as unknown[]) : [],
    );
    const containers = level.some((item) => item !== null && typeof item === 'object');
    if (!containers) return depth;
    depth += 1;
    level = next;
  }
};

/** JSON.stringify escapes NUL and unpaired surrogates, so one search of its text finds them anywhere in a value. */
const isStorableJson = (json: string): boolean => !/(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f][0-9a-f]{2})/i.test(json);

/** The caller's own data, stored and returned unchanged. */
export const metadata = z
  .record(z.string(), z.unknown())
  .refine((value) => {
    const json = JSON.stringify(value);
    return Buffer.byteLength(json) <= limits.metadataBytes && isStorableJson(json);
  }, `must be at most ${limits.metadataBytes} bytes of JSON, without NUL or unpaired surrogates`)
  .meta({ description: `The caller's own data, at most ${limits.metadataBytes} bytes of JSON.` });

/** One page of a list, and the cursor of the next page. */
export const pageOf = <Item extends z.ZodType>(item: Item) =>
  z.object({
    data: z.array(item),
    next_cursor: z
      .string()
      .nullable()
      .meta({ description: 'Pass it as `cursor` to get the next page; null on the last page.' }),
  });

/** A page of a list before its cursor is written: the key of its last item, or null if there is no further page. */
export interface Page<Item, Key = string> {
  data: Item[];
  last: Key | null;
}

/**
 * Cuts a page from what was read: one item more than fits on it tells that there is a further page.
 *
 * @param isCut whether there is a further page, where the number of items does not tell
 */
export const cutPage = <Item, Key>(
  found: readonly Item[],
  limit: number,
  keyOf: (last: Item) => Key,
  isCut = found.length > limit,
): Page<Item, Key> => {
  const data = found.slice(0, limit);
  const last = data.at(-1);
  return { data, last: isCut && last !== undefined ? keyOf(last) : null };
};

/** The tenant and account of every caller where authentication is off, and of the operator. */
export const defaultTenant = 'default';
export const defaultAccount = 'default';
