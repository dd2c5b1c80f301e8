import { applyDecorators, HttpCode, StreamableFile, type Type } from '@nestjs/common';
import { ROUTE_ARGS_METADATA, RouteParamtypes } from '@nestjs/common/internal';
import { ApiBody, ApiHeader, ApiOperation, ApiParam, ApiQuery, ApiResponse, ApiSecurity } from '@nestjs/swagger';
import { RouteConfig } from '@nestjs/platform-fastify';
import type { FastifyReply, RouteOptions } from 'fastify';
import { z } from 'zod';
import { errorCodes, limits, problem, type ErrorCode, type Scope } from '#contracts';
import { examplesOf, wireSchema } from './wire-schema.js';
import { encoderOf } from './encoder.js';
import { SchemaPipe, faultsIn } from './valid.js';

/** The media type of server-sent events. */
export const eventStream = 'text/event-stream';

/** One answer that an endpoint can give. */
export interface Reply {
  /** Encodes the handler's return value for this status; without a schema the value is sent unchanged. */
  schema?: z.ZodType;
  description: string;
  /** The media type of the stream that the handler may return instead, as a `StreamableFile`. */
  streamedAs?: string;
  /** The media type of a text that the handler returns instead of JSON. The handler sets the header itself. */
  writtenAs?: string;
  /** Headers of the response and their descriptions: `{Location: 'the address of the order'}`. */
  headers?: Record<string, string>;
}

export interface EndpointOptions {
  /** The scope that a caller needs; `open` needs no authentication. */
  scope: Scope | 'open';
  summary: string;
  description?: string;
  /** Unique in the document; the name of the method if left out. */
  operationId?: string;
  /** Describes the body if the handler's `@Body()` takes the raw bytes, to verify a signature. */
  rawBody?: { description: string; example: object };
  /** The responses by status, including failures that are not problem documents. */
  replies: Record<number, Reply>;
  /** The error codes particular to the endpoint; those common to all endpoints are added. */
  errors: readonly ErrorCode[];
  idempotencyKey?: 'optional' | 'required';
  /** Exempt from admission control, for monitoring and operations that must work under overload. */
  isAlwaysAdmitted?: boolean;
  /**
   * The name of a separate limiter, for an endpoint that waits for another system: its latency says nothing about the load
   * of this process.
   */
  admittedAs?: string;
  /**
   * Has Fastify call the handler itself where Nest would only read its parameters (decision 42), for endpoints whose rate
   * matters. The handler returns a value or a promise.
   */
  isCalledDirectly?: boolean;
}

/** The method of a controller that handles an endpoint. */
export interface HandlerName {
  controller: Type;
  name: string | symbol;
}

/** The endpoint's options as its route's config has them. */
export interface EndpointConfig extends Pick<EndpointOptions, 'scope' | 'replies' | 'isAlwaysAdmitted' | 'admittedAs'> {
  /** Set if it may be called directly. */
  handledBy?: HandlerName;
  rawBody?: boolean;
  readsQuery?: boolean;
}

declare module 'fastify' {
  interface FastifyContextConfig extends Partial<EndpointConfig> {}
}

/**
 * Declares an endpoint once. The declaration and the schemas of the handler's parameters document it. In an app of
 * `createRestApp`, the handler's return value is encoded by the reply schema of the status that was set, by default the
 * lowest one. A value that does not fit its schema becomes a 500.
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
      RouteConfig({
        ...configOf(endpoint),
        ...(endpoint.isCalledDirectly && { handledBy: { controller: target.constructor as Type, name: key } }),
        readsQuery: query !== undefined,
      } satisfies EndpointConfig),
    )(target, key, method);
  };
};

/** Whether a route only reads. */
export const isRead = ({ method }: Pick<RouteOptions, 'method'>): boolean =>
  [method].flat().every((it) => it === 'GET' || it === 'HEAD');

/** The name of the security scheme in the OpenAPI documents. */
export const securityScheme = 'bearer';

const configOf = ({
  scope,
  replies,
  rawBody,
  isAlwaysAdmitted = false,
  admittedAs,
}: EndpointOptions): Omit<EndpointConfig, 'handledBy' | 'readsQuery'> => ({
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

/** The schemas that parse the handler's parameters. Nest decorates parameters before their method. */
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

/** The error codes of an endpoint, including those implied by its inputs. */
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
  // Swagger UI prefills the field from `example` only.
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

/** A response body that is JSON already and is sent unchanged. */
export class JsonText {
  constructor(readonly text: string) {}
}

/**
 * Encodes a handler's return value that is not a `JsonText`. It is called where Nest passes the value to Fastify: an
 * interceptor would do the same, but cost an Observable per request.
 *
 * @throws Error if the reply is not declared or the value does not fit its schema
 */
export const encodeReply = (value: unknown, answer: FastifyReply): unknown => {
  const { request, statusCode: status } = answer;
  const { config, url } = request.routeOptions;
  const { replies } = config;
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
