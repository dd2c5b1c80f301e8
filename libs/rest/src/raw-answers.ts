import { STATUS_CODES, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { BrowserHeaders } from './browser-headers.js';
import { answerOn, fullHeader } from './connections.js';
import { problemOf, problemType, type Problem } from './problems.js';

// Answers to requests that never reach Fastify.

/** Answers an `Expect` header other than `100-continue`; node never passes such a request to Fastify. */
export const answerExpectation = (
  { headers }: IncomingMessage,
  response: ServerResponse,
  browsers: BrowserHeaders,
): void => {
  const detail = `The only supported expectation is 100-continue, not ${headers.expect}; leave the header Expect out.`;
  const problem = problemOf('expectation-failed', detail);
  const body = JSON.stringify(problem);
  response.writeHead(problem.status, {
    'content-type': problemType,
    'content-length': Buffer.byteLength(body),
    ...browsers.headers,
    connection: 'close',
  });
  response.end(body);
};

/** Answers requests that node's HTTP parser rejects and that therefore never reach Fastify. */
export const answerUnreadable = (error: NodeJS.ErrnoException, socket: Socket, browsers: BrowserHeaders): void => {
  const answer = answerOn(socket);
  // As node does: never write into a response that has begun.
  if (error.code !== 'ECONNRESET' && socket.writable && !answer?.headersSent) {
    const problem = problemOfUnreadable(error.code);
    // The headers of the request are known if only its body cannot be read.
    const fields = answer ? browsers.forPages(answer.req).fields : {};
    const headers = { 'content-type': problemType, ...browsers.headers, ...fields };
    socket.write(rawAnswer(problem.status, headers, JSON.stringify(problem)));
  }
  socket.destroy();
};

/** Without a body, because the request that was not read may be a HEAD. */
export const refusalOfUnheard = (browsers: BrowserHeaders): string =>
  rawAnswer(503, { [fullHeader]: 'connections', 'retry-after': '1', ...browsers.headers });

/** A raw HTTP/1.1 response, the last on its connection. */
const rawAnswer = (status: number, headers: Record<string, string>, body = ''): string =>
  [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    ...Object.entries(headers).map((field) => field.join(': ')),
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    '',
    body,
  ].join('\r\n');

const problemOfUnreadable = (code: string | undefined): Problem => {
  if (code === 'HPE_HEADER_OVERFLOW') {
    return problemOf('headers-too-large', 'The header fields are too large; send fewer or shorter ones.');
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return problemOf('request-timeout', 'The request did not arrive in time; send it again, without pauses.');
  }
  return problemOf('invalid-request', 'The request is not valid HTTP/1.1.');
};
