import { CleaveError, type Contract, type ReplyOf, type RequestOf } from '#contracts';
import { throttled } from '#periodic';
import { currentWork } from '#telemetry';
import { Logger } from '@nestjs/common';
import { NO_MESSAGE_HANDLER } from '@nestjs/microservices/constants.js';
import { ObservedCalls } from './observed-calls.js';
import type { Signing } from './signing.js';
import {
  decodeReply,
  defaultTenant,
  encodeRequest,
  isWireError,
  operationOf,
  type MessageMetadata,
  type NamedOperation,
  type WireRequest,
} from './wire.js';

export interface CallOptions {
  /** Can shorten the operation's deadline, but not extend it. */
  deadlineMs?: number;
  /** `deadlineAt` can shorten the deadline too, so that the metadata of a request can be passed on unchanged. */
  metadata?: Partial<MessageMetadata>;
  /**
   * Aborting it rejects the call at once. The other side is not told: it may still carry the request out within the
   * deadline, and its late reply is dropped.
   */
  signal?: AbortSignal;
}

/** Calls the operations of a module's contract, in this process or another. */
export interface ContractClient<C extends Contract = Contract> {
  /**
   * @throws CleaveError with one of the operation's own codes, or `invalid-request` (the request does not fit the
   *   contract, with `faults`), `payload-too-large`, `deadline-exceeded`, `cancelled` (by the signal), `unavailable` (not
   *   reached, or lost on the way), `internal`
   */
  call<Name extends keyof C['operations'] & string>(
    operation: Name,
    request: RequestOf<C['operations'][Name]>,
    options?: CallOptions,
  ): Promise<ReplyOf<C['operations'][Name]>>;
}

/** A request on its way to a module. */
export interface Question {
  pattern: string;
  /** Makes the message when it is sent, so that it contains the time left at that moment. */
  message: () => WireRequest;
  /** Whether it may be sent again when its outcome is unknown. */
  mayRepeat: boolean;
  /** Distinguishes a caller that gave up from a deadline that passed. */
  signal?: AbortSignal | undefined;
}

/**
 * Receives the outcome of a request: the text of the reply; the error that the other side answered with (a `WireError`, or
 * another error from Nest); or an Error if the request could not be sent or its reply was lost.
 */
export type Ended = (error: unknown, reply?: unknown) => void;

/** Sends requests to one module. */
export interface Route {
  /**
   * @param ended called at most once, possibly before `ask` returns; not called if `ask` throws, and possibly not after
   *   the request was forgotten
   * @returns a function that forgets the request
   */
  ask(question: Question, ended: Ended): () => void;
  close(): Promise<void>;
}

const logger = new Logger('Messages');
const sayUnasked = throttled(1_000);

/** Whether the other side has no handler for this operation, for example because it runs an older version. */
export const isNotAnswered = (error: unknown): boolean =>
  error instanceof CleaveError && error.cause === NO_MESSAGE_HANDLER;

function asCleaveError(operation: NamedOperation, error: unknown): CleaveError {
  const { pattern } = operation;
  if (error instanceof CleaveError) return error;
  if (isWireError(error)) return new CleaveError(error.code, error.detail, error.extensions);
  if (error instanceof Error) {
    // The address and the cause are only logged: external callers see this error too.
    sayUnasked(() => logger.warn(`${pattern} could not be called: ${error.message}`));
    return new CleaveError('unavailable', `${pattern} could not be called. Try again shortly.`, {}, { cause: error });
  }
  const answered = typeof error === 'string' ? error : JSON.stringify(error);
  logger.error(`${pattern} got an unexpected answer: ${answered}`);
  const detail = `${pattern} has no handler there; check that the address is that of the module and that both sides have the same version`;
  return new CleaveError('internal', detail, {}, { cause: error });
}

function tooLate({ pattern, idempotent }: NamedOperation, waitedMs: number): CleaveError {
  const advice = idempotent ? 'it is safe to retry' : 'it may have been carried out nevertheless';
  return new CleaveError('deadline-exceeded', `${pattern} was not answered within ${waitedMs} ms; ${advice}`);
}

function givenUp({ pattern, idempotent }: NamedOperation): CleaveError {
  const advice = idempotent ? '' : '; it may be carried out nevertheless';
  return new CleaveError('cancelled', `${pattern} was cancelled by its caller${advice}`);
}

/** Resolves with the reply; rejects with the request's error, at the deadline, or when the signal is aborted. */
const replyTo = (
  operation: NamedOperation,
  route: Pick<Route, 'ask'>,
  question: Question,
  allowedMs: number,
): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const { signal } = question;
    if (signal?.aborted) return reject(givenUp(operation));
    const over = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', giveUp);
    };
    const fail = (error: CleaveError): void => {
      over();
      forget();
      reject(error);
    };
    const giveUp = (): void => fail(givenUp(operation));
    const timer = setTimeout(() => fail(tooLate(operation, Math.round(allowedMs))), allowedMs);
    signal?.addEventListener('abort', giveUp);
    let forget = (): void => undefined;
    const ended: Ended = (error, reply) => {
      over();
      if (error === undefined) resolve(reply);
      else reject(asCleaveError(operation, error));
    };
    try {
      forget = route.ask(question, ended);
    } catch (error) {
      ended(error);
    }
  });

function understood(operation: NamedOperation, reply: unknown): unknown {
  try {
    if (typeof reply !== 'string') throw new Error('the reply is not text');
    return decodeReply(operation, reply);
  } catch (error) {
    if (error instanceof CleaveError) throw error;
    logger.error(`${operation.pattern} sent a reply that violates its contract: ${(error as Error).message}`);
    const detail = `${operation.pattern} sent a reply that violates its contract; check that both sides have the same version`;
    throw new CleaveError('internal', detail, {}, { cause: error });
  }
}

async function ask(
  operation: NamedOperation,
  request: unknown,
  route: Pick<Route, 'ask'>,
  options: CallOptions,
  traceparent: string | undefined,
  signing: Signing | undefined,
): Promise<unknown> {
  const { deadlineAt, tenant = defaultTenant, idempotencyKey } = options.metadata ?? {};
  const { requestId = currentWork()?.requestId } = options.metadata ?? {};
  const startedAt = performance.now();
  const untilDeadline = deadlineAt ? deadlineAt.getTime() - Date.now() : Number.POSITIVE_INFINITY;
  const allowedMs = Math.min(operation.deadlineMs, options.deadlineMs ?? Number.POSITIVE_INFINITY, untilDeadline);
  const body = encodeRequest(operation, request);
  if (allowedMs <= 0) throw tooLate(operation, 0);
  const passedOn = {
    tenant,
    ...(idempotencyKey !== undefined && { idempotencyKey }),
    ...(traceparent !== undefined && { traceparent }),
  };
  const message = (): WireRequest => ({
    meta: {
      ...passedOn,
      ...(requestId !== undefined && { requestId }),
      remainingMs: Math.ceil(allowedMs - (performance.now() - startedAt)),
      ...signing?.sign(operation.pattern, passedOn, body),
    },
    body,
  });
  const { pattern, idempotent: mayRepeat } = operation;
  const question = { pattern, message, mayRepeat, signal: options.signal };
  try {
    return understood(operation, await replyTo(operation, route, question, allowedMs));
  } catch (error) {
    throw asCleaveError(operation, error);
  }
}

/** A typed client of a contract over one route. */
export function contractClient<C extends Contract>(
  contract: C,
  route: Pick<Route, 'ask'>,
  calls = new ObservedCalls(),
  signing?: Signing,
): ContractClient<C> {
  const operations = new Map<string, NamedOperation>();
  return {
    call: async (name, request, options = {}) => {
      const operation = operations.get(name) ?? operationOf(contract, name);
      operations.set(name, operation);
      const reply = await calls.made(operation, options.metadata, (traceparent) =>
        ask(operation, request, route, options, traceparent, signing),
      );
      // `decodeReply` has parsed it with the schema that this type is inferred from.
      return reply as ReplyOf<C['operations'][typeof name]>;
    },
  };
}
