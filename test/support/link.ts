import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

/** A network link between two servers that can be cut like a cable: silently. */
export class Link {
  private readonly pairs = new Set<readonly [Socket, Socket]>();
  private isCut = false;
  private passed = 0;

  private constructor(
    private readonly server: Server,
    private readonly targets: readonly number[],
  ) {
    server.on('connection', (socket) => this.join(socket));
  }

  /** @param targets ports of 127.0.0.1 that connections go to in turn */
  static async to(...targets: number[]): Promise<Link> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Link(server, targets);
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  /** Nothing gets through in either direction, and no connection ends. */
  cut(): void {
    this.isCut = true;
    for (const pair of this.pairs) for (const socket of pair) socket.pause();
  }

  /** What was under way arrives late, as after a retransmission. */
  mend(): void {
    this.isCut = false;
    for (const pair of this.pairs) for (const socket of pair) socket.resume();
  }

  async stop(): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    for (const pair of this.pairs) for (const socket of pair) socket.destroy();
    await closed;
  }

  private join(from: Socket): void {
    const to = connect(this.targets[this.passed++ % this.targets.length]!, '127.0.0.1');
    const pair = [from, to] as const;
    this.pairs.add(pair);
    const end = (): void => {
      this.pairs.delete(pair);
      for (const socket of pair) socket.destroy();
    };
    for (const [one, other] of [pair, [to, from]] as const)
      one
        .setNoDelay(true)
        .on('error', end)
        .on('close', end)
        .on('data', (chunk: Buffer) => other.write(chunk));
    if (this.isCut) this.cut();
  }
}
