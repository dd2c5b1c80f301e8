import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CleaveError, limits } from '#contracts';
import { hasBody } from './body.js';
import { refusalOfUnrouted } from './problems.js';

/** Refusals that apply to every request before its handler runs. */
export const refusalOfRequest = (request: FastifyRequest, reply: FastifyReply): CleaveError | undefined => {
  const { headers, httpVersion, url = '' } = request.raw;
  if (httpVersion === '0.9') {
    // Its end is unknown: the parser fails only at what follows, when this request may have been answered.
    reply.header('connection', 'close');
    return new CleaveError('invalid-request', 'The request is not valid HTTP/1.1.');
  }
  if (headers.host === undefined && httpVersion === '1.1') return withoutHost();
  const ofFields = refusalOfFields(request.raw);
  if (ofFields || distrusted.has(request.raw.socket)) {
    // A proxy may have parsed this request differently (request smuggling), so later requests on the connection are suspect
    // too.
    distrusted.add(request.raw.socket);
    reply.header('connection', 'close');
    return (
      ofFields ??
      new CleaveError(
        'invalid-request',
        'An earlier request on this connection was refused, so this one was not processed. Send it again on a new connection.',
      )
    );
  }
  if (!isQueryDecodable(url)) return badQuery();
  if (request.is404 || !hasPath(url)) return refusalOfUnrouted(request);
  if (headers['content-encoding'] === undefined) return undefined;
  const coding = headers['content-encoding'].trim() || 'identity';
  if (coding.toLowerCase() === 'identity' || !hasBody(request)) return undefined;
  reply.header('accept-encoding', 'identity');
  return new CleaveError('unsupported-media-type', `A body must be sent without a Content-Encoding, not as ${coding}.`);
};

const allTaken =
  'The maximum number of connections is reached. The request has had no effect; repeat it after Retry-After, on another connection.';

/** For a request on a connection beyond the limit. */
export const refusalOfFull = ({ routeOptions: { config } }: FastifyRequest): CleaveError | undefined =>
  config.isAlwaysAdmitted ? undefined : new CleaveError('unavailable', allTaken);

/** Connections on which no further request is carried out. */
export const distrusted = new WeakSet<Socket>();

/** Refuses header fields that a proxy in front may interpret differently. */
export const refusalOfFields = ({ rawHeaders, headers }: IncomingMessage): CleaveError | undefined => {
  if (rawHeaders.length > 2 * limits.headers)
    return new CleaveError('headers-too-large', `A request has at most ${limits.headers} header fields; send fewer.`);
  const repeated = sentOnce.find((name) => headers[name] !== undefined && countOf(name, rawHeaders) > 1);
  if (repeated !== undefined)
    return new CleaveError('invalid-request', `The header ${repeated} must be sent only once.`);
  const { connection } = headers;
  if (connection === undefined || /^(?:close|keep-alive)$/i.test(connection)) return undefined;
  const named = connection.split(',').find((name) => endToEnd.has(name.trim().toLowerCase()));
  if (named === undefined) return undefined;
  const detail = `The header Connection must not name ${named.trim()}, which is an end-to-end header; remove it there.`;
  return new CleaveError('invalid-request', detail);
};

/** If one of these is repeated, a proxy and this server may each use a different value. */
const sentOnce = ['host', 'authorization'] as const;

const countOf = (name: string, rawHeaders: readonly string[]): number => {
  let count = 0;
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const field = rawHeaders[at]!;
    if (field.length === name.length && field.toLowerCase() === name) count += 1;
  }
  return count;
};

/**
 * A proxy removes every field that `Connection` names (RFC 9110, 7.6.1). Removing one of these would change the request's
 * meaning.
 */
const endToEnd = new Set([
  ...['host', 'authorization', 'content-type', 'content-length', 'content-encoding', 'idempotency-key'],
  ...['if-match', 'if-none-match', 'last-event-id', 'origin', 'stripe-signature', 'cleave-caller'],
  ...['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'],
]);

/** The router would treat the first character of `*things` as a slash. */
const hasPath = (target: string): boolean => target.startsWith('/') || absoluteTarget.test(target);

const absolutePart = /^https?:\/\/[^/?]+(?=\/)/i;
const absoluteTarget = /^https?:\/\/[^/?]+(?:\/|\?[^/]*$|$)/i;

/** The target in origin form (RFC 9112, 3.2.1), without a fragment: proxies route by it too. */
export const originFormOf = (target: string): string => {
  const path = target.startsWith('/') ? target : target.replace(absolutePart, '');
  const at = path.indexOf('#');
  return at < 0 ? path : path.slice(0, at);
};

const withoutHost = (): CleaveError =>
  new CleaveError('invalid-request', 'An HTTP/1.1 request must have a header Host; send the name of this server.');

/** The router decodes the path and refuses one that it cannot decode, but passes an undecodable query on unchanged. */
const isQueryDecodable = (url: string): boolean => {
  const start = url.indexOf('?');
  if (start < 0 || !url.includes('%', start)) return true;
  try {
    decodeURIComponent(url.slice(start));
    return true;
  } catch {
    return false;
  }
};

const badQuery = (): CleaveError =>
  new CleaveError(
    'invalid-request',
    'The query has a percent sign that does not begin an encoded UTF-8 character; encode it as %25.',
  );
