import type { Admission } from '#admission';
import { BaseRpcContext, Server, type MessageHandler } from '@nestjs/microservices';
import { NO_MESSAGE_HANDLER } from '@nestjs/microservices/constants.js';
import { answeredBy, answering } from './answers.js';
import { InFlight } from './in-flight.js';
import { ObservedCalls } from './observed-calls.js';
import type { Signing } from './signing.js';
import type { NamedOperation } from './wire.js';

/** How long a shutdown waits for what has been accepted. */
export const drainMs = 10_000;

/** What became of a request: the text of the reply, or the error. */
export interface Outcome {
  response?: unknown;
  err?: unknown;
}

/** What our own transports share: requests go through Nest's pipeline and the contract, as with Nest's own servers. */
export abstract class AnsweringServer extends Server {
  /** Where it reports what it answers. */
  calls = new ObservedCalls();
  protected readonly inFlight = new InFlight();

  constructor(
    private readonly admission?: Admission,
    private readonly signing?: Signing,
  ) {
    super();
  }

  /** What this application answers, by pattern. */
  protected get operations(): NamedOperation[] {
    return [...this.messageHandlers.values()].flatMap(({ extras }) => answeredBy(extras) ?? []);
  }

  /** The modules that it answers for. */
  protected get modules(): ReadonlySet<string> {
    return new Set(this.operations.map(({ pattern }) => pattern.slice(0, pattern.indexOf('.'))));
  }

  override addHandler(pattern: unknown, callback: MessageHandler, isEvent?: boolean, extras?: object): void {
    super.addHandler(
      pattern,
      answering(callback, extras, this.inFlight, () => this.calls, this.admission, this.signing),
      isEvent,
      extras,
    );
  }

  /** Nest parses every pattern as JSON first, and the exception that ours are none is a fifth of the cost of a call. */
  override getHandlerByPattern(pattern: string): MessageHandler | null {
    return this.messageHandlers.get(pattern) ?? super.getHandlerByPattern(pattern);
  }

  /** Carries out one request. Never rejects. */
  receive(pattern: string, data: unknown): Promise<Outcome> {
    const handler = this.getHandlerByPattern(pattern);
    if (!handler) return Promise.resolve({ err: NO_MESSAGE_HANDLER });
    const context = new BaseRpcContext([pattern]);
    return new Promise((resolve) => {
      const produce = async () => this.transformToObservable(await handler(data, context));
      // Nest's type hides the promise of its hooks; a hook that fails must not leave the caller without an answer.
      const handled: unknown = this.handleRequest(context, produce, ({ err, response }) =>
        resolve(err ? { err } : { response }),
      );
      Promise.resolve(handled).catch((error: unknown) => {
        this.logger.error(error);
        resolve({ err: 'the request failed before its handler was reached' });
      });
    });
  }

  override on(): never {
    throw new Error('This transport has no events to subscribe to');
  }

  override unwrap(): never {
    throw new Error('This transport has no server underneath');
  }
}
