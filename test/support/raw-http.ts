import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Answer } from './api.js';

/** A request, byte for byte, that no client would send. */
interface RawRequest {
  /** `POST /orders HTTP/1.1` */
  line: string;
  /** Complete lines; `Host` and `Connection: close` are added. */
  headers?: string[];
  body?: string | Uint8Array;
}

const answerWithinMs = 30_000;

const opened = async (baseUrl: string): Promise<Socket> => {
  const { hostname, port } = new URL(baseUrl);
  const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
  await once(socket, 'connect');
  return socket;
};

/** Sends the request and reads until the server ends the connection. The server need not read all of it. */
export const exchange = async (baseUrl: string, { line, headers = [], body }: RawRequest): Promise<Answer> => {
  const socket = await opened(baseUrl);
  socket.setTimeout(answerWithinMs, () => socket.destroy(new Error(`no answer within ${answerWithinMs} ms: ${line}`)));
  const received: Buffer[] = [];
  const ended = new Promise<void>((resolve, reject) => {
    socket.on('data', (chunk: Buffer) => received.push(chunk));
    socket.once('end', resolve);
    socket.once('close', resolve);
    // After its answer, the server may reset the connection to avoid reading the rest.
    socket.on('error', (error) => (received.length > 0 ? resolve() : reject(error)));
  });
  const head = [line, 'Host: localhost', 'Connection: close', ...headers, '', ''].join('\r\n');
  socket.write(Buffer.from(head, 'latin1'));
  if (body !== undefined) socket.write(body);
  await ended;
  socket.destroy();
  return parsed(Buffer.concat(received));
};

const parsed = (response: Buffer): Answer => {
  const end = response.indexOf('\r\n\r\n');
  if (end < 0) throw new Error(`not an HTTP response: ${JSON.stringify(response.toString('latin1'))}`);
  const [statusLine, ...fields] = response.toString('latin1', 0, end).split('\r\n');
  const headers = new Headers(fields.map((it) => [it.slice(0, it.indexOf(':')), it.slice(it.indexOf(':') + 1).trim()]));
  const rest = response.subarray(end + 4);
  const text = (headers.get('transfer-encoding') === 'chunked' ? unchunked(rest) : rest).toString('utf8');
  const isJson = headers.get('content-type')?.includes('json') && text !== '';
  return { status: Number(statusLine?.split(' ')[1]), headers, text, body: isJson ? JSON.parse(text) : undefined };
};

const unchunked = (bytes: Buffer): Buffer => {
  const chunks: Buffer[] = [];
  for (let at = 0; ;) {
    const lineEnd = bytes.indexOf('\r\n', at);
    const size = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16);
    if (!(size > 0)) return Buffer.concat(chunks);
    chunks.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + size));
    at = lineEnd + 2 + size + 2;
  }
};

/** Sends part of a request and disconnects. */
export const abandon = async (baseUrl: string, part: string): Promise<void> => {
  const socket = await opened(baseUrl);
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => socket.write(part, () => resolve()));
  socket.destroy();
  await once(socket, 'close');
};
