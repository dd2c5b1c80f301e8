import { Agent, request } from 'node:http';
import { setTimeout } from 'node:timers/promises';
import type { Order } from './api.js';
import { fresh } from './fresh.js';

/** An order with its key, and the outcome of the request. */
export interface Attempt {
  key: string;
  body: object;
  /** The status of the answer, or the code of the error; `NO_ANSWER` if there was no answer in time. */
  outcome?: number | string;
  order?: Order;
  text?: string;
  /** From sending it to the end of its answer, in milliseconds. */
  tookMs?: number;
}

const answerWithinMs = 40_000;
/** The pause after a failure, which a real caller would make as well. */
const pauseMs = 50;

/** Callers that place one keyed order after the other, each over its own keep-alive connection. */
export class Load {
  readonly attempts: Attempt[] = [];
  private stopped = false;
  private readonly callers: Promise<void>[];

  /**
   * @param entrances base URLs that callers may use; they begin at each in turn
   * @param nextBody makes the body of each order
   * @param thinkMs how long a caller waits between two orders
   */
  constructor(
    entrances: readonly string[],
    callers: number,
    private readonly nextBody: () => object,
    private readonly thinkMs = 0,
  ) {
    this.callers = Array.from({ length: callers }, (_, at) => this.call(new Caller(entrances, at)));
  }

  get answered(): Attempt[] {
    return this.attempts.filter((it) => typeof it.outcome === 'number');
  }

  get inFlight(): Attempt[] {
    return this.attempts.filter((it) => it.outcome === undefined);
  }

  /** How many callers there are. */
  get size(): number {
    return this.callers.length;
  }

  /** Resolves once the condition holds. It is checked every few milliseconds while the callers go on. */
  async until(condition: () => boolean): Promise<void> {
    for (const giveUpAt = Date.now() + answerWithinMs; !condition(); await setTimeout(5))
      if (Date.now() > giveUpAt) throw new Error(`waited in vain; answered: ${this.summary()}`);
  }

  /** No caller starts another order. Requests under way continue. */
  stop(): void {
    this.stopped = true;
  }

  /** Stops, and waits until every order that was sent has an outcome. */
  async end(): Promise<Attempt[]> {
    this.stop();
    await Promise.all(this.callers);
    return this.attempts;
  }

  /** How many orders had which outcome. */
  summary(attempts = this.attempts): string {
    const counts = Map.groupBy(attempts, (it) => String(it.outcome ?? 'in flight'));
    return [...counts].map(([outcome, some]) => `${outcome} × ${some.length}`).join(', ');
  }

  private async call(caller: Caller): Promise<void> {
    while (!this.stopped) {
      const attempt: Attempt = { key: fresh('load'), body: this.nextBody() };
      this.attempts.push(attempt);
      await place(caller, attempt);
      const wasAnswered = attempt.outcome === 201 || attempt.outcome === 409;
      if (!wasAnswered || this.thinkMs > 0) await setTimeout(wasAnswered ? this.thinkMs : pauseMs);
    }
    caller.end();
  }
}

/** Sends one attempt and records its outcome. */
const place = async (caller: Caller, attempt: Attempt): Promise<void> => {
  const { body, key } = attempt;
  const startedAt = performance.now();
  const { status, text } = await caller.send({ method: 'POST', path: '/orders', body, key });
  attempt.tookMs = performance.now() - startedAt;
  attempt.outcome = status;
  if (text !== undefined) attempt.text = text;
  if (status === 201) attempt.order = JSON.parse(text!) as Order;
};

/** A request of a caller. */
export interface Sending {
  method: string;
  path: string;
  /** Encoded as JSON. */
  body?: object;
  key?: string;
}

/** The outcome of a request; without an answer, the code of the error instead of the status, `NO_ANSWER` on a timeout. */
interface Outcome {
  status: number | string;
  text?: string;
  /** Whether the server announced this as the last answer on the connection. */
  isLast?: boolean;
}

/**
 * A caller with a keep-alive connection. Like a load balancer, it moves to another entrance if a connection is refused,
 * or after the last answer on a connection. A request that was sent is not repeated.
 */
export class Caller {
  private readonly agent = new Agent({ keepAlive: true, maxSockets: 1 });

  /** @param at the entrance that it starts with */
  constructor(
    private readonly entrances: readonly string[],
    private at = 0,
  ) {}

  async send(sending: Sending): Promise<Outcome> {
    for (let left = this.entrances.length - 1; ; left -= 1) {
      const outcome = await sent(this.entrances[this.at % this.entrances.length]!, this.agent, sending);
      const isRefused = outcome.status === 'ECONNREFUSED';
      if (isRefused || outcome.isLast) this.at += 1;
      if (!isRefused || left === 0) return outcome;
    }
  }

  end(): void {
    this.agent.destroy();
  }
}

const sent = (baseUrl: string, agent: Agent, { method, path, body, key }: Sending): Promise<Outcome> =>
  new Promise((resolve) => {
    const content = body === undefined ? undefined : JSON.stringify(body);
    const failed = (error: NodeJS.ErrnoException): void => resolve({ status: error.code ?? error.message });
    const sending = request(baseUrl + path, {
      method,
      agent,
      timeout: answerWithinMs,
      headers: {
        ...(content !== undefined && {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(content),
        }),
        ...(key !== undefined && { 'idempotency-key': `"${key}"` }),
      },
    });
    sending.on('timeout', () => sending.destroy(Object.assign(new Error('no answer'), { code: 'NO_ANSWER' })));
    sending.on('error', failed);
    sending.on('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', failed);
      const isLast = response.headers.connection === 'close';
      response.on('end', () =>
        resolve({ status: response.statusCode!, text: Buffer.concat(chunks).toString(), isLast }),
      );
    });
    sending.end(content);
  });
