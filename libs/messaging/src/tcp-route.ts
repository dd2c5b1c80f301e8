import { Targets, type Attempts, type Instance, type Outcome, type TargetsOptions } from '#balancing';
import type { CleaveError } from '#contracts';
import { ClientTCP } from '@nestjs/microservices';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import {
  catchError,
  defer,
  finalize,
  firstValueFrom,
  from,
  mergeMap,
  of,
  takeUntil,
  tap,
  throwError,
  type Observable,
} from 'rxjs';
import { endpointText, type Endpoint } from './address.js';
import type { Route } from './client.js';
import { frameCharacters, isDrainNotice } from './tcp-frames.js';
import type { WireRequest } from './wire.js';

const connectTimeoutMs = 1_000;
const keepAliveMs = 10_000;
/** A connection on which nothing was heard for so long, although there was something to answer, is taken for dead. */
const silenceMs = 5_000;
/** Nobody answers this, and every server says so at once. */
const probePattern = 'probe';

/** The request has certainly not been sent. */
class NotConnected extends Error {
  override readonly name = 'NotConnected';
}

/** Nest's TCP client, used for the life of one socket. */
class TcpConnection extends ClientTCP {
  /** Unlike `close`, does not wait for the other side to end the connection as well. */
  destroy(): void {
    this.socket?.netSocket.destroy();
    this.close();
  }
}

async function within<Result>(work: Promise<Result>, timeoutMs: number): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no connection within ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

/** One instance of a module, over one connection at a time. */
class TcpInstance implements Instance {
  private unanswered = 0;
  private heardAt = 0;
  private connection: { client: TcpConnection; ready: Promise<TcpConnection> } | undefined;
  private readonly open = new Set<TcpConnection>();

  constructor(
    private readonly at: Endpoint,
    private readonly maxBytes: number,
    private readonly leaving: () => void,
  ) {}

  /** Fails with NotConnected when the request has not been sent. */
  send(pattern: string, message: () => WireRequest | ''): Observable<unknown> {
    return defer(() => {
      if (this.unanswered === 0) this.heardAt = performance.now();
      this.unanswered += 1;
      let isAnswered = false;
      const answered = () => {
        isAnswered = true;
        this.heardAt = performance.now();
      };
      return defer(() => this.connect()).pipe(
        mergeMap((client) => client.send(pattern, message())),
        tap({ next: answered, error: answered }),
        finalize(() => {
          this.unanswered -= 1;
          // Nobody waits any more: the instance is slow, or the machine is gone without a word.
          if (!isAnswered && performance.now() - this.heardAt > silenceMs) this.close();
        }),
      );
    });
  }

  /** An answer is asked for: a process that hangs still takes connections. */
  async probe(signal: AbortSignal): Promise<void> {
    const refused = (error: unknown) => (error instanceof Error ? throwError(() => error) : of(undefined));
    const answer$ = this.send(probePattern, () => '').pipe(catchError(refused), takeUntil(once(signal, 'abort')));
    await firstValueFrom(answer$);
    if (!this.connection) throw new Error('it takes no more requests');
  }

  close(): void {
    this.connection = undefined;
    for (const client of this.open) client.destroy();
  }

  private connect(): Promise<TcpConnection> {
    if (!this.connection) {
      const client = new TcpConnection({ ...this.at, maxBufferSize: frameCharacters(this.maxBytes) });
      this.open.add(client);
      this.connection = { client, ready: this.establish(client) };
    }
    return this.connection.ready;
  }

  private async establish(client: TcpConnection): Promise<TcpConnection> {
    client.on('close', () => {
      this.open.delete(client);
      this.abandon(client);
    });
    try {
      await within(client.connect() as Promise<unknown>, connectTimeoutMs);
    } catch (error) {
      this.abandon(client);
      client.destroy();
      throw new NotConnected(`${endpointText(this.at)} is not reached (${(error as Error).message})`, { cause: error });
    }
    const socket = client.unwrap<Socket>();
    socket.setNoDelay(true).setKeepAlive(true, keepAliveMs);
    // What was sent before is still answered on this connection; the server ends it afterwards.
    socket.on('message', (packet: unknown) => {
      if (!isDrainNotice(packet)) return;
      this.abandon(client);
      this.leaving();
    });
    return client;
  }

  /** The next request opens a new connection. */
  private abandon(client: TcpConnection): void {
    if (this.connection?.client === client) this.connection = undefined;
  }
}

export type TcpTargets = Targets<Endpoint, TcpInstance>;

/** The instances of a module at `tcp://h:p[,h:p…]`. @param maxBytes the largest request or reply */
export const tcpTargets = (
  options: Omit<TargetsOptions<Endpoint, TcpInstance>, 'instanceAt'>,
  maxBytes: number,
): TcpTargets =>
  new Targets({
    ...options,
    instanceAt: ({ port }, host, leaving) => new TcpInstance({ host, port }, maxBytes, leaving),
  });

const failing: ReadonlySet<unknown> = new Set<CleaveError['code']>(['unavailable', 'internal', 'deadline-exceeded']);

/** What is not an Error is the answer of the other side. */
function outcomeOf(error: unknown): Outcome {
  if (error instanceof NotConnected) return 'not-sent';
  if (error instanceof Error) return 'lost';
  return failing.has((error as { code?: unknown } | null)?.code) ? 'failing' : 'answered';
}

/** The way to the instances of a module over TCP. */
export class TcpRoute implements Route {
  constructor(private readonly targets: TcpTargets) {}

  send(pattern: string, message: () => WireRequest, mayRepeat: boolean): Observable<unknown> {
    return defer(() => {
      const attempts = this.targets.attempts(mayRepeat);
      const starting = this.targets.starting();
      const answer$ = this.attempt(pattern, message, attempts);
      return starting ? from(starting).pipe(mergeMap(() => answer$)) : answer$;
    });
  }

  async close(): Promise<void> {
    this.targets.close();
  }

  private attempt(pattern: string, message: () => WireRequest, attempts: Attempts<TcpInstance>): Observable<unknown> {
    return defer(() => {
      const attempt = attempts.next();
      return attempt.instance.send(pattern, message).pipe(
        tap({ next: () => attempt.end('answered') }),
        catchError((error: unknown) => {
          const outcome = outcomeOf(error);
          attempt.end(outcome);
          return attempts.another(outcome) ? this.attempt(pattern, message, attempts) : throwError(() => error);
        }),
        // Whoever waits stops only when the deadline has passed.
        finalize(() => attempt.end('late')),
      );
    });
  }
}
