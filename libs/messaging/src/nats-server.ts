import type { Admission } from '#admission';
import { CleaveError } from '#contracts';
import { isRefusedByNats, type NatsAddress } from '#nats';
import type { CustomTransportStrategy } from '@nestjs/microservices';
import { backoffMs } from '#periodic';
import type { Msg, NatsConnection, Subscription } from '@nats-io/transport-node';
import { setTimeout } from 'node:timers/promises';
import { AnsweringServer, drainMs } from './answering-server.js';
import type { Outcome } from './answers.js';
import { InFlight } from './in-flight.js';
import {
  carriedSubject,
  decodeFrame,
  encodeFrame,
  group,
  NatsPeer,
  newOwnSubject,
  patternOf,
  presentSubject,
  requestSubject,
  type Frame,
} from './nats-peer.js';
import type { Signing } from './signing.js';
import { toWireError } from './wire.js';

/** Answers over NATS, as a member of the queue group of each module that this application answers for. */
export class NatsServer extends AnsweringServer implements CustomTransportStrategy {
  override readonly transportId = Symbol('nats-requests');
  private readonly peer: NatsPeer;
  /** Requests that have not been answered, by their reply subject. */
  private readonly carried = new Set<string>();
  private readonly handling = new InFlight();
  private readonly own = newOwnSubject();
  private subscriptions: Subscription[] = [];
  private largestBytes = 0;
  private isClosed = false;

  constructor(at: NatsAddress, admission: Admission, signing?: Signing) {
    super(admission, signing);
    this.peer = new NatsPeer(at, 'NATS requests', () => this.largestBytes);
  }

  get isReached(): boolean {
    return this.peer.isReached;
  }

  override listen(callback: (error?: unknown) => void): void {
    this.start().then(
      () => callback(),
      (error: unknown) => callback(error),
    );
  }

  /** Leaves the queue groups, answers all requests that NATS has delivered already, and then closes the connection. */
  override async close(): Promise<void> {
    this.isClosed = true;
    // The link has logged a failed drain; callers lost the connection too, or find no instance with their request.
    await Promise.allSettled(this.subscriptions.map((it) => it.drain()));
    if (!(await this.handling.idle(drainMs))) {
      this.logger.error(`${this.handling.count} requests were not finished within ${drainMs} ms and are cut off`);
    }
    await this.peer
      .flush()
      .catch((error: Error) => this.logger.warn(`NATS was unreachable during shutdown (${error.message})`));
    await this.peer.close();
  }

  private async start(): Promise<void> {
    if (this.modules.size === 0) throw new Error('this application has no message handlers');
    this.largestBytes = Math.max(...this.operations.map(({ maxBytes }) => maxBytes));
    try {
      const connection = await this.openPatiently();
      const refused: Error[] = [];
      for (const module of this.modules) {
        const heard = (hear: (message: Msg) => void) => ({
          callback: (error: Error | null, message: Msg) => (error ? void refused.push(error) : hear(message)),
        });
        const take = heard((message) => this.take(message));
        this.subscriptions.push(
          connection.subscribe(requestSubject(`${module}.*`), { queue: group, ...take }),
          connection.subscribe(requestSubject(`${module}.*`, this.own), take),
          connection.subscribe(
            presentSubject(module),
            heard((message) => message.respond(encodeFrame({ at: this.own }))),
          ),
        );
        connection.subscribe(
          carriedSubject(module),
          heard((message) => this.tell(message)),
        );
      }
      await connection.flush();
      if (refused[0]) throw refused[0];
    } catch (error) {
      await this.peer.close();
      throw error;
    }
  }

  /** Retries until NATS is reached. @throws Error if NATS rejects the credentials or is not trusted */
  private async openPatiently(): Promise<NatsConnection> {
    for (let attempts = 0; ; attempts += 1) {
      try {
        return await this.peer.open();
      } catch (error) {
        if (this.isClosed || isRefusedByNats(error)) throw error;
        await setTimeout(backoffMs(attempts));
      }
    }
  }

  private take(message: Msg): void {
    const { reply } = message;
    if (!reply) return;
    this.carried.add(reply);
    void this.handling.during(() => this.handle(message, reply)).finally(() => this.carried.delete(reply));
  }

  /** Never rejects. */
  private async handle(message: Msg, reply: string): Promise<void> {
    try {
      const arrivedAt = performance.now();
      const { head, body } = await this.peer.request(message);
      const meta = timeLeft(head, performance.now() - arrivedAt);
      const outcome = await this.receive(patternOf(message.subject), { meta, body });
      await this.peer.answer(reply, replyFrame(outcome), meta.remainingMs);
    } catch (error) {
      this.notHandled(message, reply, error as Error);
    }
  }

  private notHandled({ subject }: Msg, reply: string, error: Error): void {
    if (error instanceof CleaveError) {
      this.peer
        .answer(reply, replyFrame({ err: toWireError(error) }), 0)
        .catch((failure: Error) => this.logger.warn(`An error reply could not be sent: ${failure.message}`));
    } else {
      this.logger.warn(`A request to ${subject} could not be handled: ${error.message}`);
    }
  }

  /** Does not reply if it has none of them, because another instance may. */
  private tell(message: Msg): void {
    const { carried } = decodeFrame(message.data).head;
    if (!Array.isArray(carried) || !carried.some((it) => this.carried.has(it as string))) return;
    message.respond(encodeFrame({ isCarried: true }));
  }
}

/** Subtracts the time that a request in parts took to be fetched. */
const timeLeft = (head: Frame['head'], spentMs: number): { remainingMs: number } => {
  const meta = (head['meta'] ?? {}) as { remainingMs?: number };
  return { ...meta, remainingMs: Number(meta.remainingMs) - spentMs };
};

const replyFrame = ({ err, response }: Outcome): Buffer =>
  err === undefined ? encodeFrame({}, typeof response === 'string' ? response : '') : encodeFrame({ err });
