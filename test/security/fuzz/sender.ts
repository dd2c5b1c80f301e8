import { Agent, request, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import type { FuzzedRequest } from './requests.js';

export interface FuzzedAnswer {
  /** Undefined if the connection was closed without an answer. */
  status: number | undefined;
  headers: IncomingHttpHeaders;
  text: string;
  ms: number;
  /** Why there is no answer. */
  failed: string | undefined;
}

/** Sends requests unmodified, over keep-alive connections. */
export class Sender {
  private readonly agent: Agent;

  constructor(
    private readonly baseUrl: string,
    connections: number,
    private readonly withinMs: number,
  ) {
    this.agent = new Agent({ keepAlive: true, maxSockets: connections });
  }

  close(): void {
    this.agent.destroy();
  }

  async send({ method, path, headers, body }: FuzzedRequest): Promise<FuzzedAnswer> {
    const { hostname, port } = new URL(this.baseUrl);
    const startedAt = performance.now();
    const late = AbortSignal.timeout(this.withinMs);
    const { promise, resolve } = Promise.withResolvers<Omit<FuzzedAnswer, 'ms'>>();
    const none = (error: Error): void =>
      resolve({ status: undefined, headers: {}, text: '', failed: late.aborted ? 'no answer in time' : error.message });
    const asked = request({ agent: this.agent, hostname, port, method, path, headers, signal: late });
    asked.on('error', none);
    asked.on('response', (response) => void textIn(response).then((text) => resolve(told(response, text)), none));
    asked.end(body);
    return { ...(await promise), ms: performance.now() - startedAt };
  }
}

const told = ({ statusCode, headers }: IncomingMessage, text: string): Omit<FuzzedAnswer, 'ms'> => ({
  ...{ status: statusCode, headers, text, failed: undefined },
});

/** An event stream does not end, so its first chunk is enough. */
const textIn = async (response: IncomingMessage): Promise<string> => {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    if (String(response.headers['content-type']).startsWith('text/event-stream')) break;
  }
  return Buffer.concat(chunks).toString();
};
