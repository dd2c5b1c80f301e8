import { Catch, Controller, Get, HttpException, Logger, Module, Param, type ArgumentsHost } from '@nestjs/common';
import type { ExceptionFilter } from '@nestjs/common';
import { ApiTags } from '@nestjs/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { throwError, type Observable } from 'rxjs';
import { z } from 'zod';
import { CleaveError, errorCodes, isErrorCode, type ErrorCode } from '#contracts';
import { fullHeader } from './connections.js';
import { Endpoint } from './endpoint.js';
import { valid } from './valid.js';

/** Node's own errors come from another realm under some test runners. */
const isError = (value: unknown): value is Error =>
  value instanceof Error || Object.prototype.toString.call(value) === '[object Error]';

/** A problem document of RFC 9457. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  code: ErrorCode;
  detail: string;
  [extension: string]: unknown;
}

export const problemType = 'application/problem+json';

export const problemOf = (code: ErrorCode, detail: string, extensions: Record<string, unknown> = {}): Problem => {
  const { title, status } = errorCodes[code];
  const members = { type: `/problems/${code}`, title, status, code, detail };
  // First, where a person looks, and last, so that no extension replaces them.
  return { ...members, ...extensions, ...members };
};

/** What Nest and Fastify refuse by themselves, by the status they refuse it with. */
const codeOfStatus: Record<number, ErrorCode> = {
  404: 'not-found',
  405: 'method-not-allowed',
  408: 'request-timeout',
  412: 'precondition-failed',
  413: 'payload-too-large',
  415: 'unsupported-media-type',
  417: 'expectation-failed',
  429: 'too-many-requests',
  431: 'headers-too-large',
  503: 'unavailable',
};

const detailOfFrameworkError: Record<string, string> = {
  FST_ERR_BAD_URL: 'The address has a percent sign that does not begin an encoded UTF-8 character; encode it as %25.',
  FST_ERR_MAX_PARAM_LENGTH: 'A part of the address is too long.',
  FST_ERR_CTP_BODY_TOO_LARGE: 'The body is larger than this server reads; send less at once.',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'A body must be sent as application/json in UTF-8.',
};

/** The problem that tells a caller about an error. Of an error that is not for callers it says nothing. */
export const problemOfError = (error: unknown): Problem => {
  if (error instanceof CleaveError) return problemOf(error.code, error.detail, error.extensions);
  const { status, name } = refusalIn(error);
  if (status === undefined || !isError(error)) return problemOf('internal', internalDetail);
  const detail = detailOfFrameworkError[name ?? ''] ?? error.message;
  return problemOf(codeOfStatus[status] ?? 'invalid-request', detail);
};

const internalDetail =
  'The request failed on our side. It may be sent again, with the same Idempotency-Key if it has one.';

/** The status and Fastify's own name of an error that is the caller's, or 503; nothing for any other. */
const refusalIn = (error: unknown): { status?: number; name?: string } => {
  const inner = error instanceof HttpException ? (error.cause ?? error) : error;
  const { statusCode, code } = inner as { statusCode?: unknown; code?: unknown };
  const status = error instanceof HttpException ? error.getStatus() : statusCode;
  if (typeof status !== 'number' || !((status >= 400 && status < 500) || status === 503)) return {};
  return {
    status: code === 'FST_ERR_MAX_PARAM_LENGTH' ? 400 : status,
    ...(typeof code === 'string' && { name: code }),
  };
};

const standardRetryMs = 1_000;

/** @returns the value of `Retry-After`, in whole seconds */
export const retryAfterOf = (retryAfterMs = standardRetryMs): string => String(Math.ceil(retryAfterMs / 1_000));

/** @param retryAfterMs when to come back after a 503 or 429 */
export const sendProblem = (reply: FastifyReply, problem: Problem, retryAfterMs = retryAfterIn(problem)): void => {
  if (problem.status === 503 || problem.status === 429) reply.header('retry-after', retryAfterOf(retryAfterMs));
  // Who says when to come back has too much to do, and who says that it is too late has begun: neither lacks anything.
  if (problem.status === 503 && (retryAfterMs !== undefined || problem.code !== 'unavailable'))
    reply.header(fullHeader, 'requests');
  void reply.code(problem.status).header('content-type', problemType).send(JSON.stringify(problem));
};

/** A service that was asked on behalf of the request may have said it. */
const retryAfterIn = ({ retry_after_ms }: Problem): number | undefined =>
  typeof retry_after_ms === 'number' && retry_after_ms > 0 ? retry_after_ms : undefined;

const logger = new Logger('Rest');

/** Answers every error as a problem document and logs those that are ours. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  catch(error: unknown, host: ArgumentsHost): void | Observable<never> {
    // Messages have their own way to tell errors, also where they inherit what is set up for HTTP.
    if (host.getType() !== 'http') return throwError(() => error);
    const request = host.switchToHttp().getRequest<FastifyRequest>();
    const reply = host.switchToHttp().getResponse<FastifyReply>();
    const refusal = request.is404 && error instanceof HttpException ? refusalOfUnrouted(request) : error;
    const problem = problemOfError(refusal);
    log(problem, refusal, request);
    if (reply.sent || reply.raw.headersSent) {
      // An answer that has begun cannot become another; it must not look complete.
      reply.raw.destroy();
      return;
    }
    if (problem.code === 'method-not-allowed') reply.header('allow', methodsOf(request).join(', '));
    sendProblem(reply, problem);
  }
}

const log = (problem: Problem, error: unknown, { method, routeOptions: { url } }: FastifyRequest): void => {
  // Not the address: what callers write into it may be about somebody.
  const where = `${method} ${url ?? 'unknown'}`;
  const { stack, cause } = isError(error) ? error : { stack: String(error), cause: undefined };
  if (problem.code === 'internal') logger.error(`${where} failed`, withCause(stack, cause));
  else if (problem.status === 503 && cause !== undefined) logger.warn(`${where}: ${problem.detail} ${String(cause)}`);
};

const withCause = (stack: string | undefined, cause: unknown): string =>
  cause === undefined
    ? String(stack)
    : `${stack}\ncaused by: ${isError(cause) ? withCause(cause.stack, cause.cause) : String(cause)}`;

/** Why a request reached no handler. */
export const refusalOfUnrouted = (request: FastifyRequest): CleaveError => {
  const path = request.url.split('?', 1)[0];
  const methods = methodsOf(request);
  // A route for whatever lies below an address has looked, and found nothing.
  return methods.length > 0 && !methods.includes(request.method)
    ? new CleaveError('method-not-allowed', `${path} does not support ${request.method}, only ${methods.join(', ')}.`)
    : new CleaveError('not-found', `There is nothing at ${path}. The addresses are listed at /docs.`);
};

/** The methods that the address of a request does answer. */
const methodsOf = ({ server, url }: FastifyRequest): string[] =>
  server.supportedMethods.filter((method) => {
    const route = server.findRoute({ method, url });
    return route !== null && Object.entries(route.params).every(([name, value]) => value !== '' || name === '*');
  });

const problemCode = z
  .string()
  .max(100)
  .meta({ examples: ['out-of-stock'] });

const explanation = z
  .object({ type: z.string(), code: z.string(), status: z.int(), title: z.string(), advice: z.string() })
  .meta({ id: 'ProblemExplanation' });

const advice: Record<number, string> = {
  400: 'Correct the request; the same request will be refused again.',
  401: 'Send Authorization: Bearer with a key or a token that is valid.',
  403: 'Use a key or a token that has the scope which the problem names.',
  404: 'Check the address and the ids in it.',
  405: 'Use one of the methods in the header Allow.',
  408: 'Send the request again, without pauses.',
  409: 'The request conflicts with the current state. Read the current state and decide what to do.',
  412: 'Read the resource again and repeat the change with its new ETag.',
  413: 'Send less at once.',
  415: 'Send JSON in UTF-8 with Content-Type: application/json, without a Content-Encoding.',
  417: 'Leave the header Expect out.',
  421: 'Send the request to localhost or 127.0.0.1, or set ADMIN_KEY and send a key.',
  422: 'The request is well-formed but cannot be carried out as it is; see the detail.',
  429: 'Wait as long as Retry-After says, then repeat the request.',
  431: 'Send fewer or shorter header fields.',
  500: 'Repeat the request later, with the same Idempotency-Key if it has one.',
  503: 'Repeat the request after Retry-After, with the same Idempotency-Key if it has one.',
};

/** `type` of a problem document leads here. */
@ApiTags('problems')
@Controller('problems')
class ProblemsController {
  @Get(':code')
  @Endpoint({
    scope: 'open',
    operationId: 'explainProblem',
    summary: 'Explain the code of a problem document',
    replies: { 200: { schema: explanation, description: 'What the code means and what you can do' } },
    errors: ['not-found'],
  })
  explain(@Param('code', valid(problemCode)) code: string): z.output<typeof explanation> {
    if (!isErrorCode(code)) throw new CleaveError('not-found', `There is no problem with the code ${code}.`);
    const { status, title } = errorCodes[code];
    return { type: `/problems/${code}`, code, status, title, advice: advice[status] ?? title };
  }
}

@Module({ controllers: [ProblemsController] })
export class ProblemsModule {}
