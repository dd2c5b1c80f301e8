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

/** Under some test runners, node's own errors come from another realm. */
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
  // The members come first for readability, and again last so that no extension overrides them.
  return { ...members, ...extensions, ...members };
};

/** Error codes for the refusals of Nest and Fastify themselves, by status. */
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

/** The problem document for an error. For an internal error it reveals nothing about the cause. */
export const problemOfError = (error: unknown): Problem => {
  if (error instanceof CleaveError) return problemOf(error.code, error.detail, error.extensions);
  const { status, name } = refusalIn(error);
  if (status === undefined || !isError(error)) return problemOf('internal', internalDetail);
  const detail = detailOfFrameworkError[name ?? ''] ?? error.message;
  return problemOf(codeOfStatus[status] ?? 'invalid-request', detail);
};

const internalDetail =
  'The request failed on our side. It may be sent again, with the same Idempotency-Key if it has one.';

/** The status and Fastify code of an error caused by the caller, or of a 503; empty for any other error. */
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

/** @param retryAfterMs when to retry after a 503 or 429 */
export const sendProblem = (reply: FastifyReply, problem: Problem, retryAfterMs = retryAfterIn(problem)): void => {
  if (problem.status === 503 || problem.status === 429) reply.header('retry-after', retryAfterOf(retryAfterMs));
  // An error with a retry time reports overload, and a 503 with another code (a deadline) comes from work that has begun.
  // Neither means that the process lacks a dependency, so it is marked as merely full.
  if (problem.status === 503 && (retryAfterMs !== undefined || problem.code !== 'unavailable'))
    reply.header(fullHeader, 'requests');
  void reply.code(problem.status).header('content-type', problemType).send(JSON.stringify(problem));
};

/** A service called on behalf of the request may have set the retry time. */
const retryAfterIn = ({ retry_after_ms }: Problem): number | undefined =>
  typeof retry_after_ms === 'number' && retry_after_ms > 0 ? retry_after_ms : undefined;

const logger = new Logger('Rest');

/** Answers every error as a problem document and logs internal ones. */
@Catch()
export class ProblemFilter implements ExceptionFilter {
  catch(error: unknown, host: ArgumentsHost): void | Observable<never> {
    // Message handlers report errors in their own way but may inherit the global HTTP filters.
    if (host.getType() !== 'http') return throwError(() => error);
    answerError(error, host.switchToHttp().getRequest(), host.switchToHttp().getResponse());
  }
}

export const answerError = (error: unknown, request: FastifyRequest, reply: FastifyReply): void => {
  const refusal = request.is404 && error instanceof HttpException ? refusalOfUnrouted(request) : error;
  const problem = problemOfError(refusal);
  log(problem, refusal, request);
  if (reply.sent || reply.raw.headersSent) {
    // A response that has begun cannot be replaced, and must not look complete.
    reply.raw.destroy();
    return;
  }
  if (problem.code === 'method-not-allowed') reply.header('allow', methodsOf(request).join(', '));
  sendProblem(reply, problem);
};

const log = (problem: Problem, error: unknown, { method, routeOptions: { url } }: FastifyRequest): void => {
  // Logs the route instead of the URL, which may contain personal data.
  const where = `${method} ${url ?? 'unknown'}`;
  const { stack, cause } = isError(error) ? error : { stack: String(error), cause: undefined };
  if (problem.code === 'internal') logger.error(`${where} failed`, withCause(stack, cause));
  else if (problem.status === 503 && cause !== undefined) logger.warn(`${where}: ${problem.detail} ${String(cause)}`);
};

const withCause = (stack: string | undefined, cause: unknown): string =>
  cause === undefined
    ? String(stack)
    : `${stack}\ncaused by: ${isError(cause) ? withCause(cause.stack, cause.cause) : String(cause)}`;

/** The error for a request that matches no handler. */
export const refusalOfUnrouted = (request: FastifyRequest): CleaveError => {
  const path = request.url.split('?', 1)[0];
  const methods = methodsOf(request);
  // A wildcard route may itself answer 404 for this method.
  return methods.length > 0 && !methods.includes(request.method)
    ? new CleaveError('method-not-allowed', `${path} does not support ${request.method}, only ${methods.join(', ')}.`)
    : new CleaveError('not-found', `There is nothing at ${path}. The addresses are listed at /docs.`);
};

/** The methods that the URL of a request supports. */
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

/** The `type` of a problem document links here. */
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
