import type { ArgumentMetadata, ExecutionContext, Type } from '@nestjs/common';
import {
  CUSTOM_ROUTE_ARGS_METADATA,
  EXCEPTION_FILTERS_METADATA,
  GUARDS_METADATA,
  HEADERS_METADATA,
  HOST_METADATA,
  HTTP_CODE_METADATA,
  INTERCEPTORS_METADATA,
  PIPES_METADATA,
  REDIRECT_METADATA,
  RENDER_METADATA,
  RESPONSE_PASSTHROUGH_METADATA,
  ROUTE_ARGS_METADATA,
  RouteParamtypes,
  SSE_METADATA,
} from '@nestjs/common/internal';
import { ModulesContainer, type ApplicationConfig, type NestApplication } from '@nestjs/core';
import { ExecutionContextHost } from '@nestjs/core/internal';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { HandlerName } from './endpoint.js';
import { ProblemFilter, answerError } from './problems.js';
import { SchemaPipe } from './valid.js';

type Handler = (request: FastifyRequest, reply: FastifyReply) => void;
type Method = (...args: unknown[]) => unknown;

/**
 * Has Fastify call the handlers of endpoints with `isCalledDirectly` itself. Nest calls each handler through guards,
 * interceptors and pipes, which is a dozen promises per request even where none of them is used. What a handler uses is
 * known once the app is initialised: one that uses anything but parameters, pipes of `valid` and a status is left to Nest.
 */
export const callDirectly = (app: NestFastifyApplication): void => {
  const fastify: FastifyInstance = app.getHttpAdapter().getInstance();
  fastify.addHook('onRoute', (route) => {
    const { handledBy, replies } = route.config ?? {};
    if (!handledBy || !isPlainPath.test(route.url)) return;
    // Nest stops the stream of a client that is gone.
    if (Object.values(replies ?? {}).some((it) => it.streamedAs !== undefined || it.writtenAs !== undefined)) return;
    const handler = usesOnlyProblemFilter(app) && directHandler(app, handledBy);
    if (handler) route.handler = route.url.includes(':') ? withNonEmptyParams(handler) : handler;
  });
};

/** At most one parameter, which is a whole segment: Nest has rules of its own for all others. */
const isPlainPath = /^[^:*(]*(?:\/:\w+(?:\/[^:*(]*)?)?$/;

/** Whether no module and nobody else has added anything that Nest calls for every handler. */
const usesOnlyProblemFilter = (app: NestFastifyApplication): boolean => {
  const config: ApplicationConfig = (app as unknown as NestApplication)['config'];
  const added = [
    ...[config.getGlobalGuards(), config.getGlobalInterceptors(), config.getGlobalPipes()],
    ...[config.getGlobalRequestGuards(), config.getGlobalRequestInterceptors(), config.getGlobalRequestPipes()],
    config.getGlobalRequestFilters(),
  ];
  return added.every((it) => it.length === 0) && config.getGlobalFilters().every((it) => it instanceof ProblemFilter);
};

/** What Nest does for a handler besides calling it; a direct call does none of it. */
const ofClass = [GUARDS_METADATA, INTERCEPTORS_METADATA, PIPES_METADATA, EXCEPTION_FILTERS_METADATA];
const ofMethod = [...ofClass, HEADERS_METADATA, REDIRECT_METADATA, RENDER_METADATA, SSE_METADATA];

/** @returns undefined if the handler uses something that only Nest does */
const directHandler = (app: NestFastifyApplication, { controller, name }: HandlerName): Handler | undefined => {
  const instance = onlyInstance(app, controller);
  if (!instance) return undefined;
  const method = instance[name] as Method;
  const usesNest =
    [...ofClass, HOST_METADATA].some((it) => Reflect.getMetadata(it, controller) !== undefined) ||
    ofMethod.some((it) => Reflect.getMetadata(it, method) !== undefined);
  const parameters = usesNest ? undefined : parametersOf(controller, name, method);
  if (!parameters) return undefined;
  const argumentsFor = reading(parameters);
  const status = Reflect.getMetadata(HTTP_CODE_METADATA, method) as number;
  const adapter = app.getHttpAdapter();

  const call = (args: unknown[]): unknown => method.apply(instance, args);

  return (request, reply) => {
    try {
      reply.status(status);
      const args = argumentsFor(request, reply);
      const answer = isPromise(args) ? args.then(call) : call(args);
      if (!isPromise(answer)) return void adapter.reply(reply, answer);
      Promise.resolve(answer)
        .then((value) => void adapter.reply(reply, value))
        .catch((error: unknown) => answerError(error, request, reply))
        // If even the problem document cannot be written. An unhandled rejection would end the process.
        .catch((error: unknown) => void reply.send(error));
    } catch (error) {
      answerError(error, request, reply);
    }
  };
};

/** Also for a promise of another realm, as under some test runners. */
const isPromise = (value: unknown): value is Promise<unknown> =>
  typeof (value as { then?: unknown } | null | undefined)?.then === 'function';

/** The instance of a controller, unless there are several, or of heirs as well, or it is created for each request. */
const onlyInstance = (app: NestFastifyApplication, controller: Type): Record<string | symbol, unknown> | undefined => {
  const modules = [...app.get(ModulesContainer).values()];
  const found = modules.flatMap(({ controllers }) =>
    [...controllers.values()].filter(
      ({ metatype }) => metatype === controller || metatype?.prototype instanceof controller,
    ),
  );
  const [only] = found;
  return found.length === 1 && only!.metatype === controller && only!.isDependencyTreeStatic()
    ? (only!.instance as Record<string | symbol, unknown>)
    : undefined;
};

interface Parameter {
  index: number;
  read: (request: FastifyRequest, reply: FastifyReply) => unknown;
  /** Whether it may be read later. The response has a `then` as well, but must not be waited for. */
  mayWait?: true;
  pipe?: SchemaPipe;
  metadata: ArgumentMetadata;
}

/** @returns undefined if there is one that only Nest can read */
const parametersOf = (controller: Type, name: string | symbol, method: Method): Parameter[] | undefined => {
  const args = (Reflect.getMetadata(ROUTE_ARGS_METADATA, controller, name) ?? {}) as Record<string, Argument>;
  const isAnswered = Reflect.getMetadata(RESPONSE_PASSTHROUGH_METADATA, controller, name) !== true;
  const parameters: Parameter[] = [];
  for (const [kind, argument] of Object.entries(args)) {
    const parameter = parameterOf(kind, argument, { controller, method, isAnswered });
    if (!parameter) return undefined;
    parameters.push(parameter);
  }
  return parameters;
};

/** A parameter of a handler, as Nest's decorators describe it. */
interface Argument {
  index: number;
  data?: unknown;
  pipes?: unknown[];
  factory?: (data: unknown, context: ExecutionContext) => unknown;
}

const parameterOf = (
  kind: string,
  { index, data, pipes = [], factory }: Argument,
  { controller, method, isAnswered }: { controller: Type; method: Method; isAnswered: boolean },
): Parameter | undefined => {
  const [pipe, ...others] = pipes;
  if (others.length > 0 || (pipe !== undefined && !(pipe instanceof SchemaPipe))) return undefined;
  const named = (type: ArgumentMetadata['type'], read: Parameter['read']): Parameter => ({
    ...{ index, read, metadata: { type, data: data as string | undefined } },
    ...(pipe && { pipe }),
  });
  if (kind.includes(CUSTOM_ROUTE_ARGS_METADATA)) {
    if (pipe || !factory) return undefined;
    // Its type is `http` by default.
    const read: Parameter['read'] = (request, reply) =>
      factory(data, new ExecutionContextHost([request, reply], controller, method));
    return { ...named('custom', read), mayWait: true };
  }
  const whole = data === undefined;
  const is = (type: RouteParamtypes): boolean => kind.startsWith(`${Number(type)}:`);
  if (is(RouteParamtypes.BODY) && whole) return named('body', ({ body }) => body);
  if (is(RouteParamtypes.QUERY) && whole) return named('query', ({ query }) => query);
  if (is(RouteParamtypes.PARAM) && !whole)
    return named('param', ({ params }) => (params as Record<string, string>)[String(data)]);
  const field = String(data).toLowerCase();
  if (is(RouteParamtypes.HEADERS) && !whole && !pipe) return named('custom', ({ headers }) => headers[field]);
  if (is(RouteParamtypes.RESPONSE) && !isAnswered && !pipe) return named('custom', (_request, reply) => reply);
  return undefined;
};

/**
 * Reads the arguments in the order in which Nest does, so that of several faults the same one is reported: a decorator
 * that throws comes before a pipe.
 *
 * @returns a promise only if a decorator returned one
 */
const reading = (parameters: readonly Parameter[]) => {
  const count = Math.max(-1, ...parameters.map(({ index }) => index)) + 1;
  const piped = parameters.filter(({ pipe }) => pipe);
  const convert = (args: unknown[]): unknown[] => {
    for (const { index, pipe, metadata } of piped) args[index] = pipe!.transform(args[index], metadata);
    return args;
  };
  return (request: FastifyRequest, reply: FastifyReply): unknown[] | Promise<unknown[]> => {
    const args = Array<unknown>(count).fill(undefined);
    let awaited: Promise<void>[] | undefined;
    for (const { index, read, mayWait } of parameters) {
      const value = read(request, reply);
      args[index] = value;
      if (!mayWait || !isPromise(value)) continue;
      const settled = value.then((it) => void (args[index] = it));
      // If a later decorator throws, nobody waits for it.
      settled.catch(() => undefined);
      (awaited ??= []).push(settled);
    }
    return awaited ? Promise.all(awaited).then(() => convert(args)) : convert(args);
  };
};

/** As Nest does, because the router lets a parameter be empty: `/orders//history` is not the history of an order. */
const withNonEmptyParams =
  (handler: Handler): Handler =>
  (request, reply) => {
    const params = Object.values(request.params as Record<string, string>);
    if (params.includes('')) reply.callNotFound();
    else handler(request, reply);
  };
