import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';

export interface BrowserOptions {
  /** The origins whose pages may read responses; none if left out. */
  corsOrigins?: readonly string[] | undefined;
  /**
   * The `max-age` of HSTS in seconds, for deployments with TLS termination in front. The header is not sent if left out.
   */
  hstsSeconds?: number | undefined;
}

/** No response is a page, and none may be cached (OWASP, REST Security). */
const policy = "default-src 'none'; frame-ancestors 'none'";

/** Swagger UI is a page: it loads its scripts from this host only and creates inline styles. */
const policyOfDocs = [
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
].join('; ');

const always = {
  'x-content-type-options': 'nosniff',
  'content-security-policy': policy,
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
};

const allowed = {
  'access-control-allow-methods': 'GET, HEAD, POST, PUT, PATCH, DELETE',
  'access-control-allow-headers':
    'Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, X-Request-Id, Traceparent',
  'access-control-max-age': '600',
};

const exposed = [
  ...['ETag', 'Location', 'Idempotent-Replayed', 'RateLimit', 'RateLimit-Policy', 'Retry-After', 'WWW-Authenticate'],
  ...['Allow', 'X-Request-Id'],
].join(', ');

/**
 * The response headers for browsers: the security headers, and which origins may read the response (WHATWG Fetch, CORS).
 */
export class BrowserHeaders {
  /** The headers of every response, including those written without a request. */
  readonly headers: Readonly<Record<string, string>>;
  private readonly origins: ReadonlySet<string>;

  constructor({ corsOrigins = [], hstsSeconds }: BrowserOptions) {
    this.origins = new Set(corsOrigins);
    this.headers = {
      ...always,
      ...(hstsSeconds !== undefined && { 'strict-transport-security': `max-age=${hstsSeconds}; includeSubDomains` }),
      ...(this.origins.size > 0 && { vary: 'Origin' }),
    };
  }

  /** @returns whether the response is complete, because the request was a CORS preflight */
  tell({ headers, method, url }: FastifyRequest, reply: FastifyReply): boolean {
    reply.headers(this.headers);
    if (url.startsWith('/docs')) reply.header('content-security-policy', policyOfDocs);
    if (headers.origin === undefined) return false;
    const { fields, isAll } = this.forPages({ headers, method });
    reply.headers(fields);
    if (isAll) void reply.code(204).send();
    return isAll;
  }

  /** Whether pages of the origin may read responses. */
  mayRead(origin: string | undefined): boolean {
    return origin !== undefined && this.origins.has(origin);
  }

  /** The CORS headers for a request, and whether it was a preflight, to which they are the whole answer. */
  forPages({ headers, method }: Pick<IncomingMessage, 'headers' | 'method'>): {
    fields: Record<string, string>;
    isAll: boolean;
  } {
    const { origin } = headers;
    if (origin === undefined || !this.mayRead(origin)) return { fields: {}, isAll: false };
    const isAll = method === 'OPTIONS' && headers['access-control-request-method'] !== undefined;
    const told = isAll ? allowed : { 'access-control-expose-headers': exposed };
    return { fields: { 'access-control-allow-origin': origin, ...told }, isAll };
  }
}
