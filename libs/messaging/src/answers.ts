import type { Admission, Limiter } from '#admission';
import { CleaveError, type Contract, type ReplyOf, type RequestOf } from '#contracts';
import { traceparentOf } from '#telemetry';
import { Catch, Logger, UseFilters, type RpcExceptionFilter } from '@nestjs/common';
import { Ctx, MessagePattern, Payload, type MessageHandler } from '@nestjs/microservices';
import { isObservable, lastValueFrom, throwError, type Observable } from 'rxjs';
import type { InFlight } from './in-flight.js';
import type { ObservedCalls } from './observed-calls.js';
import type { Signing } from './signing.js';
import {
  decodeRequest,
  encodeReply,
  operationOf,
  toWireError,
  transportErrors,
  wireRequest,
  type JsonReply,
  type MessageMetadata,
  type NamedOperation,
  type WireError,
} from './wire.js';

const logger = new Logger('Messages');

/** Nest turns errors that it does not know into "Internal server error"; this filter passes a `CleaveError` on unchanged. */
@Catch(CleaveError)
class RefusalFilter implements RpcExceptionFilter<CleaveError> {
  catch(refusal: CleaveError): Observable<never> {
    return throwError(() => refusal);
  }
}

/**
 * Makes a controller's method the handler of one operation of a contract, over every transport. It is called with the
 * decoded request and the metadata; guards, interceptors and filters get these two as data and context. It refuses a request
 * by throwing one of the operation's errors; any other error is logged here and reaches the caller as `internal`.
 */
export function Answers<C extends Contract, Name extends keyof C['operations'] & string>(contract: C, name: Name) {
  type Asked = C['operations'][Name];
  const operation = operationOf(contract, name);
  return <
    Handler extends (request: RequestOf<Asked>, metadata: MessageMetadata) => Promise<ReplyOf<Asked> | JsonReply>,
  >(
    target: object,
    key: string | symbol,
    descriptor: TypedPropertyDescriptor<Handler>,
  ): void => {
    Payload()(target, key, 0);
    Ctx()(target, key, 1);
    UseFilters(new RefusalFilter())(target, key, descriptor);
    MessagePattern(operation.pattern, { operation })(target, key, descriptor);
  };
}

/** The operation that a handler answers; undefined if it was not made by `@Answers`. */
export const answeredBy = (extras: Record<string, unknown> | undefined): NamedOperation | undefined =>
  extras?.['operation'] as NamedOperation | undefined;

/** The value that Nest's pipeline ends with; rejects with its error. */
async function settled(result: unknown): Promise<unknown> {
  const value = await result;
  return isObservable(value) ? lastValueFrom(value, { defaultValue: undefined }) : value;
}

// Nest puts this message in place of an unknown error, after logging that error with its stack.
const wasLogged = (error: unknown): boolean =>
  typeof error === 'object' && error !== null && 'message' in error && error.message === 'Internal server error';

/** Replaces an unexpected error by `internal` without details, which might be confidential. */
function refusal(operation: NamedOperation, error: unknown): CleaveError {
  if (error instanceof CleaveError && [...transportErrors, ...operation.errors].includes(error.code)) return error;
  const unlisted = error instanceof CleaveError ? `"${error.code}" is not among the errors of its contract: ` : '';
  if (error instanceof Error) logger.error(`${operation.pattern} failed: ${unlisted}${error.message}`, error.stack);
  else if (!wasLogged(error)) logger.error(`${operation.pattern} failed: ${JSON.stringify(error)}`);
  return new CleaveError('internal', `${operation.pattern} failed; the log of its service has the cause`);
}

async function answer(
  operation: NamedOperation,
  handler: MessageHandler,
  data: unknown,
  calls: ObservedCalls,
  signing: Signing | undefined,
): Promise<string> {
  const message = wireRequest.safeParse(data);
  if (!message.success)
    throw new CleaveError('invalid-request', `${operation.pattern} received a message without the expected envelope`);
  const { meta, body } = message.data;
  signing?.check(operation.pattern, message.data);
  const { remainingMs, signedAt: _signedAt, signature: _signature, ...passedOn } = meta;
  if (remainingMs <= 0) {
    throw new CleaveError('deadline-exceeded', `${operation.pattern} arrived too late and was not carried out`);
  }
  const request = decodeRequest(operation, body);
  const metadata: MessageMetadata = { ...passedOn, deadlineAt: new Date(Date.now() + remainingMs) };
  const traced = { ...metadata, traceparent: traceparentOf(metadata.traceparent) };
  const reply = await calls.answered(operation, traced, () => settled(handler(request, metadata)));
  if (metadata.deadlineAt.getTime() < Date.now()) {
    throw new CleaveError('deadline-exceeded', `${operation.pattern} was finished too late, and its reply is dropped`);
  }
  return encodeReply(operation, reply);
}

/** Refuses excess requests at once, so that their callers learn of it before the deadline. */
async function admitted(
  { pattern }: NamedOperation,
  limiter: Limiter | undefined,
  work: () => Promise<string>,
): Promise<string> {
  if (!limiter) return work();
  if (limiter.refuses()) {
    const detail = `${pattern} is overloaded; this request has had no effect, repeat it later`;
    throw new CleaveError('unavailable', detail, { retry_after_ms: limiter.retryAfterMs() });
  }
  const entered = limiter.enter();
  try {
    return await work();
  } finally {
    limiter.leave(entered);
  }
}

/** Never throws, whatever `error` is: the caller waits for an answer. */
function errorFor(operation: NamedOperation, error: unknown): WireError {
  try {
    return toWireError(refusal(operation, error));
  } catch (fault) {
    logger.error(`${operation.pattern} failed with an error that cannot be encoded: ${String(fault)}`);
    return {
      code: 'internal',
      detail: `${operation.pattern} failed; the log of its service has the cause`,
      extensions: {},
    };
  }
}

/** The result of a request: the text of the reply, or the error. */
export interface Outcome {
  response?: unknown;
  err?: unknown;
}

/** Carries out one request. Never rejects. */
export type Answer = (data: unknown) => Promise<Outcome>;

/**
 * Wraps a handler as Nest registers it with a server: decodes the request, and encodes the reply or the error. Undefined for
 * a handler that was not made by `@Answers`.
 *
 * @param admission undefined in-process, where a call is part of a request that was admitted already
 * @param calls a function, because handlers are registered before it is set
 * @param signing undefined if requests need no signature
 */
export function answering(
  handler: MessageHandler,
  extras: object | undefined,
  inFlight: InFlight,
  calls: () => ObservedCalls,
  admission?: Admission,
  signing?: Signing,
): Answer | undefined {
  const operation = answeredBy(extras as Record<string, unknown> | undefined);
  if (!operation) return undefined;
  // One limiter for each operation, because the duration of one says nothing about another.
  const limiter = admission?.limiterOf(operation.pattern);
  return (data) =>
    inFlight.during(async () => {
      try {
        return {
          response: await admitted(operation, limiter, () => answer(operation, handler, data, calls(), signing)),
        };
      } catch (error) {
        return { err: errorFor(operation, error) };
      }
    });
}
