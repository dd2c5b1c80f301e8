import { once } from 'node:events';
import { createServer, request as send, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { SeededRandom } from '#testing';

const fates = ['pass', 'lose request', 'lose answer', 'cut answer', '503', '429'] as const;
type Fate = (typeof fates)[number];

/**
 * Simulates a bad network in front of an HTTP server: only somewhat more than half of the requests pass undisturbed.
 */
export class LossyProxy {
  /** How often each fate has occurred. */
  readonly befell = new Map<Fate, number>();
  private readonly streams = new Set<ServerResponse>();

  private constructor(
    private readonly server: Server,
    private readonly target: URL,
    private readonly random: SeededRandom,
  ) {
    server.on('request', (request, response) => this.pass(request, response));
  }

  static async to(url: string, random: SeededRandom): Promise<LossyProxy> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new LossyProxy(server, new URL(url), random);
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Cuts all answers in progress. */
  cutAll(): void {
    for (const stream of this.streams) stream.destroy();
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  private pass(request: IncomingMessage, response: ServerResponse): void {
    const fate = this.random.next() < 0.5 ? 'pass' : this.random.pick(fates);
    this.befell.set(fate, (this.befell.get(fate) ?? 0) + 1);
    if (fate === 'lose request') return void response.destroy();
    if (fate === '503' || fate === '429') return void response.writeHead(Number(fate), { 'retry-after': '0' }).end();
    const { method, url, headers } = request;
    const { hostname, port } = this.target;
    const upstream = send({ hostname, port, path: url, method, headers }, (answer) => {
      if (fate === 'lose answer') return void response.destroy();
      response.writeHead(answer.statusCode!, answer.headers);
      this.streams.add(response);
      response.once('close', () => {
        this.streams.delete(response);
        upstream.destroy();
      });
      if (fate === 'pass') return void answer.pipe(response);
      answer.once('data', (chunk: Buffer) => {
        response.write(chunk.subarray(0, chunk.length / 2), () => response.destroy());
      });
    });
    upstream.on('error', () => response.destroy());
    request.pipe(upstream);
  }
}
