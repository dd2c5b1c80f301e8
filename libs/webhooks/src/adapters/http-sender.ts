import { Agent as HttpAgent, request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { LookupFunction } from 'node:net';
import type { OnApplicationShutdown } from '@nestjs/common';
import { failureOf, type Answer } from '../domain/retries.js';
import type { WebhookSender } from '../use-cases/deliver-messages.js';
import { PrivateAddressError, type AddressGuard } from './address-guard.js';

/** Limits for the body of a response: bytes to read before the connection is closed, and characters to keep. */
const readBytes = 16_384;
const keptCharacters = 500;
/** Idle connections: how many per host, and for how long. */
const keepAlive = { keepAlive: true, maxFreeSockets: 4, timeout: 15_000 };

/** Descriptions of connection errors; others are described by their code. */
const reasons: Record<string, string> = {
  ECONNREFUSED: 'the connection was refused',
  ECONNRESET: 'the connection was closed without an answer',
  EHOSTUNREACH: 'the host cannot be reached',
  ENETUNREACH: 'the host cannot be reached',
};

const noAddress = new Set(['ENOTFOUND', 'ENODATA']);

/**
 * Posts over HTTP, to addresses that were checked. Redirects are not followed, and both the total time and the bytes that
 * are read are limited.
 */
export class HttpSender implements WebhookSender, OnApplicationShutdown {
  private readonly agents = { http: new HttpAgent(keepAlive), https: new HttpsAgent(keepAlive) };
  private readonly lookup: LookupFunction;

  constructor(
    private readonly guard: AddressGuard,
    private readonly timeoutMs: number,
  ) {
    this.lookup = (hostname, { all }, done) => {
      guard.addressesOf(hostname).then(
        (addresses) => (all ? done(null, addresses) : done(null, addresses[0]!.address, addresses[0]!.family)),
        (error: NodeJS.ErrnoException) => done(error, []),
      );
    };
  }

  /** When nothing is being sent any more. */
  onApplicationShutdown(): void {
    this.agents.http.destroy();
    this.agents.https.destroy();
  }

  async send(url: string, headers: Record<string, string>, body: string): Promise<Answer> {
    // The rules may have changed since the endpoint was registered.
    const fault = this.guard.faultOf(new URL(url));
    if (fault !== undefined) return failed(fault);
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), this.timeoutMs);
    try {
      return await this.post(new URL(url), headers, body, late.signal);
    } catch (error) {
      return failed(late.signal.aborted ? `no answer within ${this.timeoutMs} ms` : reasonOf(error as Error));
    } finally {
      clearTimeout(timer);
    }
  }

  private async post(
    url: URL,
    headers: Record<string, string>,
    body: string,
    signal: AbortSignal,
    isRepeat = false,
  ): Promise<Answer> {
    const request = this.begin(url, headers, body, signal);
    try {
      return await answerTo(request);
    } catch (error) {
      // The other end has closed an idle connection just as it was used.
      const { code } = error as NodeJS.ErrnoException;
      const isStale = request.reusedSocket && (code === 'ECONNRESET' || code === 'EPIPE');
      if (!isStale || isRepeat || signal.aborted) throw error;
      return await this.post(url, headers, body, signal, true);
    }
  }

  private begin(url: URL, headers: Record<string, string>, body: string, signal: AbortSignal): ClientRequest {
    const isHttps = url.protocol === 'https:';
    const request = (isHttps ? httpsRequest : httpRequest)(url, {
      method: 'POST',
      agent: isHttps ? this.agents.https : this.agents.http,
      lookup: this.lookup,
      signal,
      headers: {
        ...headers,
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        'user-agent': 'Cleave-Webhooks/1',
      },
    });
    request.end(body);
    return request;
  }
}

/** The status decides; an error in the body that follows it changes nothing. */
const answerTo = async (request: ClientRequest): Promise<Answer> => {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  request.once('response', resolve).on('error', reject);
  // After an invalid response, such as one in another protocol, there is no other event.
  request.once('close', () => reject(Object.assign(new Error('closed'), { code: 'ECONNRESET' })));
  const response = await promise;
  const status = response.statusCode!;
  const snippet = await beginningOf(response);
  const retryAfter = response.headers['retry-after'] ?? null;
  return { status, error: failureOf(status), snippet, retryAfter };
};

const beginningOf = async (response: IncomingMessage): Promise<string | null> => {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      bytes += chunk.length;
      // Leaving the loop closes the connection.
      if (bytes >= readBytes) break;
    }
  } catch {
    // The body ended too early, or took too long.
  }
  // Postgres can store neither NUL nor half of a surrogate pair.
  const text = Buffer.concat(chunks).toString().replaceAll('\0', '').slice(0, keptCharacters).toWellFormed();
  return text === '' ? null : text;
};

const failed = (error: string): Answer => ({ status: null, error, snippet: null, retryAfter: null });

const reasonOf = (error: Error): string => {
  if (error instanceof PrivateAddressError) return error.message;
  // An AggregateError has one error for each address that was tried.
  const [first] = error instanceof AggregateError ? (error.errors as Error[]) : [];
  const { code = 'unknown', syscall } = (first ?? error) as NodeJS.ErrnoException;
  if (noAddress.has(code)) return 'the host name has no address';
  // An unreachable DNS server has the error codes of connections, so the system call tells them apart.
  if (/^(query|getaddrinfo)/.test(syscall ?? '')) return 'the host name could not be resolved';
  return reasons[code] ?? `the request failed with ${code}`;
};
