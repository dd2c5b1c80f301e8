import { CleaveApiError, errorOf } from './errors.js';
import { operations } from './generated/operations.gen.js';
import type { OperationId } from './resources.js';
import { Alarm, backoffMs, orAborted, pause, retryAfterMs } from './retries.js';

export interface CleaveOptions {
  /** The base URL of the API, such as `https://orders.example.com`. */
  baseUrl: string;
  /** Sent as `Authorization: Bearer …`; a function is called before every try. */
  apiKey?: string | (() => string | Promise<string>) | undefined;
  /** Sends the requests; the global `fetch` if left out. */
  fetch?: typeof fetch | undefined;
  /** How long one try may take, in milliseconds; 10,000 if left out. */
  timeoutMs?: number | undefined;
  /** How long all tries and the waits between them may take, in milliseconds; 60,000 if left out. */
  deadlineMs?: number | undefined;
  /** How often a failed request is sent again at most; 5 if left out. */
  retries?: number | undefined;
}

export interface CallOptions extends Partial<Pick<CleaveOptions, 'timeoutMs' | 'deadlineMs' | 'retries'>> {
  /** Aborts the call, which rejects with the reason of the signal. */
  signal?: AbortSignal | undefined;
  /**
   * Send the same key with each repeat of an operation, also from another process: the answer is then that of the first
   * time. If it is left out, each call gets a new key.
   */
  idempotencyKey?: string | undefined;
  headers?: Record<string, string> | undefined;
  /** Called with the successful response, for its status and headers, such as `Idempotent-Replayed`. */
  onResponse?: ((response: Response) => void) | undefined;
}

/** A call of one operation. */
export interface Call {
  id: OperationId;
  /** The id in the path. */
  of?: string | number;
  query?: Record<string, unknown>;
  body?: unknown;
}

/** Operations without PUT or DELETE that set a state: sent twice, they have the effect of once. */
const settingStates: ReadonlySet<OperationId> = new Set<OperationId>(['putProducts', 'cacheBatch', 'invalidateCache']);

/** Operations that answer 404 the second time, because the first has removed the object. */
const removals: ReadonlySet<OperationId> = new Set<OperationId>(['deleteWebhookEndpoint']);

/** Statuses of failures that pass: the server, or a proxy in front of it, could not answer. */
const passingStatuses = new Set([408, 429, 502, 503, 504]);

/** Sends requests, and retries them where that is safe. */
export class Transport {
  private readonly baseUrl: string;

  constructor(private readonly options: CleaveOptions) {
    // In JavaScript, callers may leave out the options, or pass only the URL.
    const baseUrl: unknown = (options as CleaveOptions | undefined)?.baseUrl;
    // `localhost:3000` parses as a URL with the scheme `localhost`.
    if (typeof baseUrl !== 'string' || !URL.canParse(baseUrl) || !/^https?:/i.test(baseUrl))
      throw new TypeError(
        `baseUrl must be a URL such as http://127.0.0.1:3000, not ${String(baseUrl)}: new Cleave({ baseUrl })`,
      );
    this.baseUrl = baseUrl.replace(/(?<!\/)\/+$/, '');
  }

  /**
   * Resolves with the body of the response.
   *
   * @throws CleaveApiError
   * @throws TypeError if the request cannot be sent at all
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
      // An earlier try has removed it, but its answer was lost.
      if (mayBeDone && outcome.status === 404 && removals.has(call.id)) return undefined;
      mayBeDone ||= outcome.status !== 429;
      const waitMs = retryAfterMs(outcome.headers) + backoffMs(tries);
      if (tries > retries || !mayBeRepeated(call, headers, outcome) || Date.now() + waitMs >= giveUpAt) throw outcome;
      await pause(waitMs, options.signal);
    }
  }

  /** @returns the response, or the error if there is none. If the signal is aborted, it rejects at once */
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
      return isAnswerTo(call.id, response)
        ? { response, body: await bodyOf(response) }
        : await errorOf(response, tries);
    } catch (error) {
      signal?.throwIfAborted();
      return noAnswer(error, tries);
    } finally {
      alarm.stop();
    }
  }

  /** Sends the request once, without retries. */
  async fetch(call: Call, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const { method, path } = operations[call.id];
    const { apiKey, fetch = globalThis.fetch } = this.options;
    const key = typeof apiKey === 'function' ? await orAborted(apiKey(), signal) : apiKey;
    const address = path.replace(/\{\w+\}/, () => encodeURIComponent(String(call.of)));
    return fetch(`${this.baseUrl}${address}${queryOf(call.query)}`, {
      method,
      headers: { ...headers, ...(key !== undefined && { authorization: `Bearer ${key}` }) },
      ...(call.body !== undefined && { body: JSON.stringify(call.body) }),
      // Followed, most redirects turn a POST into a GET: an order would seem to be placed.
      redirect: 'manual',
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

/** `fetch` would fail with it in every try, as if the server had not answered. */
const refuseUnsendable = ({ body }: Call, headers: Record<string, string>): void => {
  JSON.stringify([body, new Headers(headers)]);
};

const queryOf = (query: Record<string, unknown> = {}): string => {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined) given.set(name, String(value));
  return given.size === 0 ? '' : `?${given}`;
};

const isJson = (response: Response): boolean => response.headers.get('content-type')?.includes('json') ?? false;

/** Whether it is what the operation answers: a web page of something else may have the status 200 too. */
const isAnswerTo = (id: OperationId, response: Response): boolean =>
  response.ok && (response.status === 204 || id === 'getMetrics' || isJson(response));

const bodyOf = async (response: Response): Promise<unknown> => {
  const text = await response.text();
  if (response.status === 204) return undefined;
  return isJson(response) ? JSON.parse(text) : text;
};

/** `fetch failed` hides the reason in its cause; for a name with several addresses, in the errors of its cause. */
export const noAnswer = (error: unknown, tries: number): CleaveApiError => {
  const { message, cause } = error as { message: string; cause?: { message?: string; errors?: Error[] } };
  const reason = cause?.errors?.[0]?.message ?? cause?.message ?? message;
  return new CleaveApiError('no-answer', `There was no answer: ${reason}`, tries, undefined, { cause: error });
};

const mayBeRepeated = (call: Call, headers: Record<string, string>, { status, code }: CleaveApiError): boolean => {
  // Such a request was turned away before anything was done.
  if (status === 429) return true;
  if (!isSafeTwice(call, headers)) return false;
  if (status === undefined || code === 'request-in-progress') return true;
  return passingStatuses.has(status) && finalStatusOf(call.id) !== status;
};

/** Whether repeating it after a lost answer has no further effect. */
const isSafeTwice = ({ id, body }: Call, headers: Record<string, string>): boolean => {
  const { method, takesKey } = operations[id];
  if (method === 'GET' || takesKey) return true;
  // The second time, the condition would fail, because the first has changed what it tests.
  if ('if-match' in headers || 'if-none-match' in headers) return false;
  // So would the lease, which ends as soon as something is written with it.
  if (id === 'putCacheEntry' && (body as { lease?: string } | undefined)?.lease !== undefined) return false;
  // A count of stock is no longer true if goods have left since.
  if (id === 'putStock') return false;
  return method === 'PUT' || method === 'DELETE' || settingStates.has(id);
};

/** The status that is itself the answer of the operation, such as 503 from the readiness check. */
const finalStatusOf = (id: OperationId): number | undefined => {
  const operation = operations[id];
  return 'finalStatus' in operation ? operation.finalStatus : undefined;
};
