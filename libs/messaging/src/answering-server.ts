import type { Admission } from '#admission';
import { Server, type CustomTransportStrategy, type MessageHandler } from '@nestjs/microservices';
import { NO_MESSAGE_HANDLER } from '@nestjs/microservices/constants.js';
import { answeredBy, answering, type Answer, type Outcome } from './answers.js';
import { InFlight } from './in-flight.js';
import { ObservedCalls } from './observed-calls.js';
import type { Signing } from './signing.js';
import type { NamedOperation } from './wire.js';

/** The module that a pattern, `<module>.<operation>`, belongs to. */
export const moduleOf = (pattern: string): string => pattern.slice(0, pattern.indexOf('.'));

/** How long a shutdown waits for accepted requests. */
export const drainMs = 10_000;

/** Common base of our own transports: requests go through Nest's pipeline and the contract, as over TCP. */
export abstract class AnsweringServer extends Server implements CustomTransportStrategy {
  /** Records the calls that this server answers. */
  calls = new ObservedCalls();
  protected readonly inFlight = new InFlight();
  private readonly answers = new Map<string, Answer>();

  constructor(
    private readonly admission?: Admission,
    private readonly signing?: Signing,
  ) {
    super();
  }

  /** Resolves once it takes requests. */
  protected abstract start(): Promise<void>;

  override listen(callback: (error?: unknown) => void): void {
    this.start().then(
      () => callback(),
      (error: unknown) => callback(error),
    );
  }

  /** The operations that this application answers. */
  protected get operations(): NamedOperation[] {
    return [...this.messageHandlers.values()].flatMap(({ extras }) => answeredBy(extras) ?? []);
  }

  /** The modules that this application answers for. */
  protected get modules(): ReadonlySet<string> {
    return new Set(this.operations.map(({ pattern }) => moduleOf(pattern)));
  }

  override addHandler(pattern: unknown, callback: MessageHandler, isEvent?: boolean, extras?: object): void {
    super.addHandler(pattern, callback, isEvent, extras);
    const answer = answering(callback, extras, this.inFlight, () => this.calls, this.admission, this.signing);
    if (answer) this.answers.set(String(pattern), answer);
  }

  /** Carries out one request, if `@Answers` has a method for it: this transport has no other handlers. Never rejects. */
  receive(pattern: string, data: unknown): Promise<Outcome> {
    return this.answers.get(pattern)?.(data) ?? Promise.resolve({ err: NO_MESSAGE_HANDLER });
  }

  override on(): never {
    throw new Error('This transport has no events to subscribe to');
  }

  override unwrap(): never {
    throw new Error('This transport has no server underneath');
  }
}
