import type { Admission } from '#admission';
import { CleaveError } from '#contracts';
import { isRefusedByNats, type NatsAddress } from '#nats';
import type { CustomTransportStrategy } from '@nestjs/microservices';
import { waitBeforeRetryMs } from '#periodic';
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

/** Answers over NATS, as one of the group of each module that this application answers for. */
export class NatsServer extends AnsweringServer implements CustomTransportStrategy {
  override readonly transportId = Symbol('nats-requests');
  private readonly peer: NatsPeer;
  /** The requests that have not been answered, by where the answer goes. */
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

  /** Leaves the groups, takes what NATS had sent here before, answers all of it, and lets go of NATS then. */
  override async close(): Promise<void> {
    this.isClosed = true;
    // What is cut off has been told of by the connection; its callers have lost it as well, or will find nobody who has it.
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

  /** Waits for as long as NATS is not there. @throws Error with what it refuses us with */
  private async openPatiently(): Promise<NatsConnection> {
    for (let attempts = 0; ; attempts += 1) {
      try {
        return await this.peer.open();
      } catch (error) {
        if (this.isClosed || isRefusedByNats(error)) throw error;
        await setTimeout(waitBeforeRetryMs(attempts));
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

  /** Silence says no: somebody else may have it. */
  private tell(message: Msg): void {
    const { carried } = decodeFrame(message.data).head;
    if (!Array.isArray(carried) || !carried.some((it) => this.carried.has(it as string))) return;
    message.respond(encodeFrame({ isCarried: true }));
  }
}

/** A request that came in parts has spent some of its time on the way. */
const timeLeft = (head: Frame['head'], spentMs: number): { remainingMs: number } => {
  const meta = (head['meta'] ?? {}) as { remainingMs?: number };
  return { ...meta, remainingMs: Number(meta.remainingMs) - spentMs };
};

const replyFrame = ({ err, response }: Outcome): Buffer =>
  err === undefined ? encodeFrame({}, typeof response === 'string' ? response : '') : encodeFrame({ err });
