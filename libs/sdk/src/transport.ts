import { CleaveApiError, errorOf } from './errors.js';
import { operations } from './generated/operations.gen.js';
import type { OperationId } from './resources.js';
import { Alarm, backoffMs, orAborted, pause, retryAfterMs } from './retries.js';

export interface CleaveOptions {
  /** Where the API begins, such as `https://orders.example.com`. */
  baseUrl: string;
  /** Sent as `Authorization: Bearer …`; a function is asked for it before every try. */
  apiKey?: string | (() => string | Promise<string>) | undefined;
  /** Sends the requests; the global `fetch` when left out. */
  fetch?: typeof fetch | undefined;
  /** How long one try may take, in milliseconds; 10,000 when left out. */
  timeoutMs?: number | undefined;
  /** How long all tries and the waits between them may take, in milliseconds; 60,000 when left out. */
  deadlineMs?: number | undefined;
  /** How often a request that failed is sent again at most; 5 when left out. */
  retries?: number | undefined;
}

export interface CallOptions extends Partial<Pick<CleaveOptions, 'timeoutMs' | 'deadlineMs' | 'retries'>> {
  /** Gives up; the call rejects with its reason. */
  signal?: AbortSignal | undefined;
  /**
   * The same for each repeat of one operation, also by another process: one that is known already is answered as it was.
   * A new one is made for each call when left out.
   */
  idempotencyKey?: string | undefined;
  headers?: Record<string, string> | undefined;
  /** Sees the headers and the status of the answer, such as `Idempotent-Replayed`. */
  onResponse?: ((response: Response) => void) | undefined;
}

/** One operation as it is asked. */
export interface Call {
  id: OperationId;
  /** What the path names. */
  of?: string | number;
  query?: Record<string, unknown>;
  body?: unknown;
}

/** Operations that set a state and are not asked by PUT or DELETE: to ask twice is to ask once. */
const settingStates: ReadonlySet<OperationId> = new Set<OperationId>(['putProducts', 'cacheBatch', 'invalidateCache']);

/** Operations that find nothing the second time, because the first has removed it. */
const removals: ReadonlySet<OperationId> = new Set<OperationId>(['deleteWebhookEndpoint']);

/** Answers that tell of a moment: the server, or what stands before it, could not answer. */
const passingStatuses = new Set([408, 429, 502, 503, 504]);

/** Sends requests, again where that is safe, until they are answered. */
export class Transport {
  private readonly baseUrl: string;

  constructor(private readonly options: CleaveOptions) {
    // Whoever writes JavaScript may leave all of it out, or give the address alone.
    const baseUrl: unknown = (options as CleaveOptions | undefined)?.baseUrl;
    // What is `localhost:3000` is a URL of the scheme `localhost`.
    if (typeof baseUrl !== 'string' || !URL.canParse(baseUrl) || !/^https?:/i.test(baseUrl))
      throw new TypeError(
        `baseUrl must be a URL such as http://127.0.0.1:3000, not ${String(baseUrl)}: new Cleave({ baseUrl })`,
      );
    this.baseUrl = baseUrl.replace(/(?<!\/)\/+$/, '');
  }

  /**
   * The body of the answer.
   *
   * @throws CleaveApiError
   * @throws TypeError for what cannot be sent at all
   */
  async ask(call: Call, options: CallOptions = {}): Promise<unknown> {
    const { timeoutMs = 10_000, deadlineMs = 60_000, retries = 5 } = { ...defined(this.options), ...defined(options) };
    const headers = headersOf(call, options);
    refuseUnsendable(call, headers);
    const giveUpAt = Date.now() + deadlineMs;
    let mayBeDone = false;
    for (let tries = 1; ; tries += 1) {
      const outcome = await this.once(call, headers, Math.min(timeoutMs, giveUpAt - Date.now()), tries, options.signal);
      if (!(outcome instanceof CleaveApiError)) {
        options.onResponse?.(outcome.response);
        return outcome.body;
      }
      // A try before this one has removed it, and its answer was lost.
      if (mayBeDone && outcome.status === 404 && removals.has(call.id)) return undefined;
      mayBeDone ||= outcome.status !== 429;
      const waitMs = retryAfterMs(outcome.headers) + backoffMs(tries);
      if (tries > retries || !mayBeRepeated(call, headers, outcome) || Date.now() + waitMs >= giveUpAt) throw outcome;
      await pause(waitMs, options.signal);
    }
  }

  /** @returns the answer, or why there is none; whoever aborts the signal hears of it at once */
  private async once(
    call: Call,
    headers: Record<string, string>,
    timeoutMs: number,
    tries: number,
    signal: AbortSignal | undefined,
  ): Promise<{ response: Response; body: unknown } | CleaveApiError> {
    const alarm = new Alarm(signal);
    try {
      alarm.windUp(timeoutMs);
      const response = await this.fetch(call, headers, alarm.signal);
      return response.ok ? { response, body: await bodyOf(response) } : await errorOf(response, tries);
    } catch (error) {
      signal?.throwIfAborted();
      return noAnswer(error, tries);
    } finally {
      alarm.stop();
    }
  }

  /** Sends it once. */
  async fetch(call: Call, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const { method, path } = operations[call.id];
    const { apiKey, fetch = globalThis.fetch } = this.options;
    const key = typeof apiKey === 'function' ? await orAborted(apiKey(), signal) : apiKey;
    const address = path.replace(/\{\w+\}/, () => encodeURIComponent(String(call.of)));
    return fetch(`${this.baseUrl}${address}${queryOf(call.query)}`, {
      method,
      headers: { ...headers, ...(key !== undefined && { authorization: `Bearer ${key}` }) },
      ...(call.body !== undefined && { body: JSON.stringify(call.body) }),
      signal,
    });
  }
}

const defined = <Options extends object>(options: Options): Partial<Options> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<Options>;

const headersOf = (call: Call, { headers, idempotencyKey }: CallOptions): Record<string, string> => ({
  accept: 'application/json',
  ...(call.body !== undefined && { 'content-type': 'application/json' }),
  ...(operations[call.id].takesKey && {
    'idempotency-key': `"${(idempotencyKey ?? crypto.randomUUID()).replaceAll(/["\\]/g, String.raw`\$&`)}"`,
  }),
  ...Object.fromEntries(Object.entries(headers ?? {}).map(([name, value]) => [name.toLowerCase(), value])),
});

/** `fetch` would fail with it as if nobody had answered, time after time. */
const refuseUnsendable = ({ body }: Call, headers: Record<string, string>): void => {
  JSON.stringify([body, new Headers(headers)]);
};

const queryOf = (query: Record<string, unknown> = {}): string => {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined) given.set(name, String(value));
  return given.size === 0 ? '' : `?${given}`;
};

const bodyOf = async (response: Response): Promise<unknown> => {
  const text = await response.text();
  if (text === '') return undefined;
  return response.headers.get('content-type')?.includes('json') ? JSON.parse(text) : text;
};

/** `fetch failed` hides the reason in its cause, for a name with several addresses in the errors of its cause. */
export const noAnswer = (error: unknown, tries: number): CleaveApiError => {
  const { message, cause } = error as { message: string; cause?: { message?: string; errors?: Error[] } };
  const reason = cause?.errors?.[0]?.message ?? cause?.message ?? message;
  return new CleaveApiError('no-answer', `There was no answer: ${reason}`, tries, undefined, { cause: error });
};

const mayBeRepeated = (call: Call, headers: Record<string, string>, { status, code }: CleaveApiError): boolean => {
  // Whoever is too many was turned away before anything was done.
  if (status === 429) return true;
  if (!isSafeTwice(call, headers)) return false;
  if (status === undefined || code === 'request-in-progress') return true;
  return passingStatuses.has(status) && finalStatusOf(call.id) !== status;
};

/** Whether it has no other effect when it is carried out again, after an answer that was lost. */
const isSafeTwice = ({ id, body }: Call, headers: Record<string, string>): boolean => {
  const { method, takesKey } = operations[id];
  if (method === 'GET' || takesKey) return true;
  // The second time the condition would not hold any more, because the first has changed what it asks about.
  if ('if-match' in headers || 'if-none-match' in headers) return false;
  // Nor would the lease, which is over once something is written under it.
  if (id === 'putCacheEntry' && (body as { lease?: string } | undefined)?.lease !== undefined) return false;
  // What was counted once does not hold any more when goods have gone since.
  if (id === 'putStock') return false;
  return method === 'PUT' || method === 'DELETE' || settingStates.has(id);
};

/** The status which is the answer to this very question, such as 503 to whether the server is ready. */
const finalStatusOf = (id: OperationId): number | undefined => {
  const operation = operations[id];
  return 'finalStatus' in operation ? operation.finalStatus : undefined;
};
