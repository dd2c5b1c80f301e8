import { applyDecorators, HttpCode, StreamableFile } from '@nestjs/common';
import { ROUTE_ARGS_METADATA, RouteParamtypes } from '@nestjs/common/internal';
import { ApiBody, ApiHeader, ApiOperation, ApiParam, ApiQuery, ApiResponse, ApiSecurity } from '@nestjs/swagger';
import { RouteConfig } from '@nestjs/platform-fastify';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { errorCodes, limits, problem, type ErrorCode, type Scope } from '#contracts';
import { examplesOf, wireSchema } from './wire-schema.js';
import { encoderOf } from './encoder.js';
import { SchemaPipe, faultsIn } from './valid.js';

/** The media type of server-sent events. */
export const eventStream = 'text/event-stream';

/** One answer that an endpoint can give. */
export interface Reply {
  /** What the handler returns with this status, encoded by the schema; without one it is sent as it is. */
  schema?: z.ZodType;
  description: string;
  /** The media type of a stream that the handler may return instead, as a StreamableFile. */
  streamedAs?: string;
  /** The media type of a text that the handler returns, and names in a header, where the answer is no JSON at all. */
  writtenAs?: string;
  /** Header fields of the answer and what they say: `{Location: 'the address of the order'}`. */
  headers?: Record<string, string>;
}

export interface EndpointOptions {
  /** What a caller must be allowed to do; `open` for everybody, who then is not asked who they are. */
  scope: Scope | 'open';
  summary: string;
  description?: string;
  /** Unique in the document; the name of the method when left out. */
  operationId?: string;
  /** What the body is, where the handler's `@Body()` takes its bytes as they came, to check who has signed them. */
  rawBody?: { description: string; example: object };
  /** The answers by status, among them any that are no success and no problem document. */
  replies: Record<number, Reply>;
  /** The refusals that are particular to the endpoint; those that any endpoint can give are added. */
  errors: readonly ErrorCode[];
  idempotencyKey?: 'optional' | 'required';
  /** Also where there is more to do than can be done: for those who watch how the process does. */
  isAlwaysAdmitted?: boolean;
  /** Limited apart from other reads or writes: it waits for somebody else, which says nothing about how the process does. */
  admittedAs?: string;
}

/** What a route knows of its endpoint. */
export interface EndpointConfig extends Pick<EndpointOptions, 'scope' | 'replies' | 'isAlwaysAdmitted' | 'admittedAs'> {
  rawBody?: boolean;
  readsQuery?: boolean;
}

/**
 * Describes an endpoint once: it is documented by it and by what the handler's parameters are parsed by, and in an app of
 * `createRestApp` what the handler returns is encoded by the reply of the status that was set, the lowest by default. What
 * does not fit its schema is answered 500.
 */
export const Endpoint = (endpoint: EndpointOptions): MethodDecorator => {
  return (target, key, method) => {
    const { body, query, params } = inputsOf(target, key);
    const { rawBody } = endpoint;
    const errors = errorsOf(endpoint, Boolean(body ?? rawBody));
    applyDecorators(
      ApiOperation({
        operationId: endpoint.operationId ?? String(key),
        summary: endpoint.summary,
        ...(endpoint.description && { description: endpoint.description }),
      }),
      ...(endpoint.scope === 'open' ? [] : [ApiSecurity(securityScheme, [endpoint.scope])]),
      ...[...params].map(([name, schema]) => ApiParam({ name, ...parameterOf(schema) })),
      ...Object.entries(query?.shape ?? {}).map(([name, schema]) =>
        ApiQuery({
          name,
          ...parameterOf(schema as z.ZodType),
          required: !(schema as z.ZodType).safeParse(undefined).success,
        }),
      ),
      ...(endpoint.idempotencyKey ? [idempotencyKeyHeader(endpoint.idempotencyKey === 'required')] : []),
      ...(body ? [bodyOf(body)] : []),
      ...(rawBody ? [bytesOf(rawBody)] : []),
      ...Object.entries(endpoint.replies).map(([status, reply]) =>
        replyOf(Number(status), reply, endpoint.idempotencyKey !== undefined),
      ),
      ...[...Map.groupBy(errors, (code) => errorCodes[code].status)]
        .filter(([status]) => !(status in endpoint.replies))
        .map(([status, codes]) => refusalOf(status, codes)),
      HttpCode(Math.min(...Object.keys(endpoint.replies).map(Number))),
      RouteConfig({ ...configOf(endpoint), readsQuery: query !== undefined }),
    )(target, key, method);
  };
};

/** The name that the documents have for how callers say who they are. */
export const securityScheme = 'bearer';

const configOf = ({
  scope,
  replies,
  rawBody,
  isAlwaysAdmitted = false,
  admittedAs,
}: EndpointOptions): EndpointConfig => ({
  scope,
  replies,
  isAlwaysAdmitted,
  ...(admittedAs !== undefined && { admittedAs }),
  ...(rawBody && { rawBody: true }),
});

interface Inputs {
  body: z.ZodType | undefined;
  query: z.ZodObject | undefined;
  params: Map<string, z.ZodType>;
}

/** What the handler's parameters are parsed by. Parameters are decorated before their method is. */
const inputsOf = (target: object, key: string | symbol): Inputs => {
  const args = (Reflect.getMetadata(ROUTE_ARGS_METADATA, target.constructor, key) ?? {}) as Record<
    string,
    { data?: unknown; pipes?: unknown[] }
  >;
  const parsed = Object.entries(args).flatMap(([kind, { data, pipes }]) => {
    const pipe = pipes?.find((it) => it instanceof SchemaPipe);
    return pipe ? [{ kind: Number(kind.split(':', 1)[0]), data, schema: pipe.schema }] : [];
  });
  const whole = (wanted: RouteParamtypes): z.ZodType | undefined =>
    parsed.find(({ kind, data }) => kind === Number(wanted) && data === undefined)?.schema;
  const query = whole(RouteParamtypes.QUERY);
  const queries = Object.keys(args).filter((kind) => kind.startsWith(`${RouteParamtypes.QUERY}:`));
  if (queries.length > 1 || (queries.length === 1 && !(query instanceof z.ZodObject)))
    throw new Error(`${String(key)} takes a query that is not documented: write @Query(valid(an object)), once`);
  const params = parsed.filter(({ kind }) => kind === Number(RouteParamtypes.PARAM));
  return {
    body: whole(RouteParamtypes.BODY),
    query: query instanceof z.ZodObject ? query : undefined,
    params: new Map(params.map(({ data, schema }) => [String(data), schema])),
  };
};

/** The refusals of an endpoint, those among them that come with what it takes. */
const errorsOf = (endpoint: EndpointOptions, takesBody: boolean): ErrorCode[] => {
  const codes: ErrorCode[] = [...endpoint.errors, 'invalid-request'];
  if (takesBody) codes.push('payload-too-large', 'unsupported-media-type');
  if (endpoint.scope !== 'open') codes.push('unauthenticated', 'forbidden', 'too-many-requests');
  if (endpoint.idempotencyKey) codes.push('invalid-idempotency-key');
  if (endpoint.idempotencyKey === 'required') codes.push('idempotency-key-required');
  codes.push('internal', 'unavailable', 'deadline-exceeded');
  const known = Object.keys(errorCodes);
  return [...new Set(codes)].sort((one, other) => known.indexOf(one) - known.indexOf(other));
};

const parameterOf = (schema: z.ZodType) => {
  const { description, examples, ...rest } = wireSchema(schema);
  // Swagger UI fills the field in from `example` alone.
  const example = Array.isArray(examples) && { example: examples[0] as unknown };
  return { schema: { ...rest, ...example }, ...(typeof description === 'string' && { description }) };
};

const idempotencyKeyHeader = (required: boolean) =>
  ApiHeader({
    name: 'Idempotency-Key',
    required,
    description:
      `A string of 1 to ${limits.keyLength} characters that identifies the operation. If you repeat the request, send the ` +
      'same key: you get the first answer again, and nothing happens twice.' +
      (required ? ' Replace the example with a new key for every operation.' : ''),
    schema: { type: 'string', minLength: 1, maxLength: limits.keyLength + 2 },
    ...(required && { example: 'first-try' }),
  });

const bodyOf = (schema: z.ZodType) =>
  ApiBody({
    required: !schema.safeParse({}).success,
    schema: wireSchema(schema),
    ...(examplesOf(schema) && { examples: examplesOf(schema) }),
  });

const bytesOf = ({ description, example }: NonNullable<EndpointOptions['rawBody']>) =>
  ApiBody({ description, required: true, schema: { type: 'object' }, examples: { signed: { value: example } } });

const replyOf = (status: number, reply: Reply, replayed: boolean) => {
  const { schema, description, headers, streamedAs, writtenAs } = reply;
  const described = {
    ...headers,
    ...(replayed && status < 300 && { 'Idempotent-Replayed': '`true` if this answer repeats an earlier one' }),
  };
  return ApiResponse({
    status,
    description,
    ...(Object.keys(described).length > 0 && {
      headers: Object.fromEntries(
        Object.entries(described).map(([name, meaning]) => [
          name,
          { description: meaning, schema: { type: 'string' } },
        ]),
      ),
    }),
    ...(schema && {
      content: {
        'application/json': {
          schema: wireSchema(schema),
          ...(examplesOf(schema) && { examples: examplesOf(schema) }),
        },
        ...(streamedAs && { [streamedAs]: { schema: { type: 'string' } } }),
      },
    }),
    ...(writtenAs && { content: { [writtenAs]: { schema: { type: 'string' } } } }),
  });
};

const headerThat = (description: string) => ({ description, schema: { type: 'string' as const } });

const headersOfRefusal: Record<number, Record<string, ReturnType<typeof headerThat>>> = {
  401: { 'WWW-Authenticate': headerThat('`Bearer`: how to authenticate') },
  403: { 'WWW-Authenticate': headerThat('`Bearer`, and the scope that is missing') },
  429: { 'Retry-After': headerThat('Seconds to wait before repeating the request') },
  503: { 'Retry-After': headerThat('Seconds to wait before repeating the request') },
};

const refusalOf = (status: number, codes: ErrorCode[]) =>
  ApiResponse({
    status,
    description: codes.map((code) => `\`${code}\`: ${errorCodes[code].title}`).join('\n\n'),
    ...(headersOfRefusal[status] && { headers: headersOfRefusal[status] }),
    content: {
      'application/problem+json': {
        schema: wireSchema(problem),
        examples: Object.fromEntries(
          codes.map((code) => {
            const { title } = errorCodes[code];
            return [code, { value: { type: `/problems/${code}`, title, status, code, detail: title } }];
          }),
        ),
      },
    },
  });

/** An answer of which the handler has the JSON already: it is sent as it is. */
export class JsonText {
  constructor(readonly text: string) {}
}

/**
 * What is sent for the value that a handler returned, unless it is a `JsonText`. Called for every such answer, where Nest
 * hands it to Fastify: an interceptor would do the same for the price of an Observable a request.
 *
 * @throws Error when the reply is not declared or does not fit its schema
 */
export const encodeReply = (value: unknown, answer: FastifyReply): unknown => {
  const { request, statusCode: status } = answer;
  const { config, url } = request.routeOptions;
  const { replies } = config as Partial<EndpointConfig>;
  if (!replies) return value;
  const route = `${request.method} ${url}`;
  const reply = replies[status];
  if (!reply) throw new Error(`${route} answered ${status}, which its @Endpoint does not declare`);
  if (!reply.schema || (reply.streamedAs !== undefined && value instanceof StreamableFile)) return value;
  const encoded = encoderOf(reply.schema)(value);
  if (encoded.success) return encoded.data;
  const faults = faultsIn(encoded.error.issues, value).map(({ path, message }) => `${path}: ${message}`);
  throw new Error(
    `${route} answered ${status} with a body that does not match its schema: ${faults.slice(0, 10).join('; ')}`,
  );
};
