import { isUtf8 } from 'node:buffer';
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyRequest, preParsingHookHandler } from 'fastify';
import { CleaveError, invalidRequest, limits } from '#contracts';
import { isRead } from './endpoint.js';

/**
 * Accepts only JSON in UTF-8 as a request body. A request without a body has the body `undefined`, whatever its content
 * type; the schema of the endpoint decides whether that is valid. An endpoint may ask for the raw bytes instead.
 */
export const readJsonBodies = (fastify: FastifyInstance): void => {
  fastify.removeAllContentTypeParsers();
  fastify.addHook('onRoute', (route) => {
    if (!isRead(route)) route.preParsing = [...[route.preParsing ?? []].flat(), endEmpty];
  });
  fastify.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body: Buffer, done) => {
    try {
      if (takesBytes(request)) done(null, body);
      else done(null, body.length === 0 ? undefined : parseJsonBody(body, request));
    } catch (error) {
      done(error as Error);
    }
  });
  fastify.addContentTypeParser('*', (request, _stream, done) => {
    done(hasBody(request) ? notJson(request) : null, undefined);
  });
};

/**
 * The server ends the stream of a request without a body before anybody can listen to it (`optimizeEmptyRequests`), and
 * Fastify would wait for its end for ever if the request has a content type.
 */
const endEmpty: preParsingHookHandler = (_request, _reply, payload, done) =>
  done(null, payload.readableEnded ? Readable.from([]) : payload);

/** Whether the endpoint takes the raw bytes of its body. */
const takesBytes = ({ routeOptions }: FastifyRequest): boolean => routeOptions.config.rawBody === true;

/** Whether a request has a body. A chunked body may turn out to be empty. */
export const hasBody = ({ headers }: FastifyRequest): boolean =>
  headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';

const notJson = (request: FastifyRequest): CleaveError =>
  new CleaveError(
    'unsupported-media-type',
    `A body must be sent as application/json in UTF-8, not as ${request.headers['content-type'] ?? 'content without a type'}.`,
  );

const parseJsonBody = (body: Buffer, request: FastifyRequest): unknown => {
  const charset = /;\s*charset\s*=\s*"?([^";\s]*)/i.exec(request.headers['content-type'] ?? '')?.[1];
  if (charset !== undefined && !/^utf-?8$/i.test(charset)) throw notJson(request);
  if (!isUtf8(body)) throw unreadable('The body is not valid UTF-8.');
  refuseDeepNesting(body);
  const startsWithBom = body[0] === 0xef && body[1] === 0xbb && body[2] === 0xbf;
  const json = body.toString('utf8', startsWithBom ? 3 : 0);
  const value = parse(json);
  // Keys can contain escapes, so a backslash is as suspicious as the name itself. Only a number with a large exponent or
  // many digits can exceed the range of a double.
  if (/__proto__|prototype|\\u|e\+?\d{3}|\d{16}/i.test(json)) {
    refuseUnsafeJson(value);
    refuseLossy(value, json);
  }
  return value;
};

const unreadable = (detail: string): CleaveError =>
  new CleaveError('invalid-request', detail, { faults: [{ path: '', message: detail }] });

const parse = (json: string): unknown => {
  try {
    return JSON.parse(json);
  } catch (error) {
    // Node quotes the text around the fault in its message, which may contain personal data.
    const [fault] = (error as SyntaxError).message.split(/, (?:\.{3})?"/, 1);
    throw unreadable(`The body is not valid JSON: ${fault}`);
  }
};

const quote = '"'.charCodeAt(0);
const backslash = '\\'.charCodeAt(0);
const openers = new Set(['[', '{'].map((it) => it.charCodeAt(0)));
const closers = new Set([']', '}'].map((it) => it.charCodeAt(0)));

/**
 * Checks the raw bytes before anything recurses into the body. In UTF-8, no byte of a multi-byte character equals an ASCII
 * byte.
 */
const refuseDeepNesting = (body: Buffer): void => {
  let depth = 0;
  for (let at = 0; at < body.length; at += 1) {
    const byte = body[at] as number;
    if (byte === quote) at = endOfString(body, at);
    else if (openers.has(byte)) depth += 1;
    else if (closers.has(byte)) depth -= 1;
    if (depth > limits.nesting) throw unreadable(`The body is nested deeper than ${limits.nesting} levels.`);
  }
};

/** The position of the quote that ends the string begun at `start`, or the end of the body. */
const endOfString = (body: Buffer, start: number): number => {
  let at = start + 1;
  while (at < body.length && body[at] !== quote) at += body[at] === backslash ? 2 : 1;
  return at;
};

/**
 * Refuses keys that enable prototype pollution, and numbers that were parsed as infinite, which JSON could only return as
 * null.
 */
export const refuseUnsafeJson = (root: unknown): void => {
  const waiting: { value: unknown; path: string[] }[] = [{ value: root, path: [] }];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const { value, path } = next;
    if (value === Infinity || value === -Infinity) throw faulty(path, 'is a number that is too large');
    if (value === null || typeof value !== 'object') continue;
    for (const [key, member] of Object.entries(value)) {
      if (key === '__proto__' || (key === 'prototype' && path.at(-1) === 'constructor'))
        throw faulty([...path, key], 'is not allowed as a key');
      waiting.push({ value: member, path: [...path, key] });
    }
  }
};

/**
 * Refuses integers that a double cannot represent exactly or would print differently: a client with 64-bit integers would
 * get a different number back.
 */
const refuseLossy = (root: unknown, json: string): void => {
  const lossy = new Set<number>();
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\[^])*(?:"|\\?$)|-?\d[\d.e+-]*/gi))
    if (/^-?\d{16,}$/.test(token) && !isKept(token)) lossy.add(Number(token));
  if (lossy.size === 0) return;
  const waiting: { value: unknown; path: string[] }[] = [{ value: root, path: [] }];
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const { value, path } = next;
    if (lossy.has(value as number))
      throw faulty(path, 'is an integer beyond 2^53 and would lose digits; send it as a string');
    if (value === null || typeof value !== 'object') continue;
    for (const [key, member] of Object.entries(value)) waiting.push({ value: member, path: [...path, key] });
  }
};

const isKept = (token: string): boolean => Number.isSafeInteger(Number(token)) || String(Number(token)) === token;

const faulty = (path: string[], message: string): CleaveError => invalidRequest(path.join('.'), message);
