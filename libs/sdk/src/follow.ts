import { CleaveApiError, errorOf } from './errors.js';
import { eventData } from './event-stream.js';
import type { OrderEvent } from './generated/types.gen.js';
import { Alarm, backoffMs, pause, retryAfterMs } from './retries.js';
import { noAnswer, type Transport } from './transport.js';

export interface FollowOptions {
  /** The `cursor` of the last event that was processed; starts at the beginning of the log if left out. */
  after?: string | undefined;
  /** Ends the iteration, which rejects with the reason of the signal. */
  signal?: AbortSignal | undefined;
}

/** The server sends something every 10 seconds; a connection that is silent for this long is dead. */
const silenceMs = 30_000;

/** Errors that trying again cannot solve. */
const isFinal = ({ status }: CleaveApiError): boolean =>
  status !== undefined && status < 500 && status !== 408 && status !== 429;

/**
 * Every event from `after` on, each once and in order, as it happens. It reconnects whenever the connection breaks. It
 * ends only by `break`, by its signal, or with an error that trying again cannot solve.
 */
export async function* followEvents(
  transport: Transport,
  { after, signal }: FollowOptions,
): AsyncGenerator<OrderEvent, void, undefined> {
  let cursor = after;
  for (let failures = 1; ; failures += 1) {
    let waitMs = 0;
    const alarm = new Alarm(signal);
    try {
      for await (const event of connection(transport, cursor, alarm)) {
        failures = 0;
        cursor = event.cursor;
        yield event;
      }
    } catch (error) {
      signal?.throwIfAborted();
      const failure = error instanceof CleaveApiError ? error : noAnswer(error, failures);
      if (isFinal(failure)) throw failure;
      waitMs = retryAfterMs(failure.headers);
    } finally {
      alarm.stop();
    }
    await pause(waitMs + backoffMs(Math.max(failures, 1)), signal);
  }
}

async function* connection(
  transport: Transport,
  after: string | undefined,
  alarm: Alarm,
): AsyncGenerator<OrderEvent, void, undefined> {
  alarm.windUp(silenceMs);
  const headers = { accept: 'text/event-stream', ...(after !== undefined && { 'last-event-id': after }) };
  const response = await transport.fetch({ id: 'listEvents' }, headers, alarm.signal);
  const isStream = response.headers.get('content-type')?.startsWith('text/event-stream');
  if (!response.ok || !isStream) throw await errorOf(response, 1);
  if (response.body === null) return;
  for await (const data of eventData(response.body, () => alarm.windUp(silenceMs)))
    yield JSON.parse(data) as OrderEvent;
}
