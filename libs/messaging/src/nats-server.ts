import type { Admission } from '#admission';
import { CleaveError } from '#contracts';
import { isRefusedByNats, type NatsAddress } from '#nats';
import { backoffMs } from '#periodic';
import type { Msg, NatsConnection, Subscription } from '@nats-io/transport-node';
import { setTimeout } from 'node:timers/promises';
import { AnsweringServer, drainMs, moduleOf } from './answering-server.js';
import type { Outcome } from './answers.js';
import { InFlight } from './in-flight.js';
import {
  carriedSubject,
  decodeFrame,
  encodeFrame,
  group,
  lastResort,
  NatsPeer,
  newOwnSubject,
  patternOf,
  presentSubject,
  requestSubject,
  type Frame,
} from './nats-peer.js';
import { SelfEjection } from './self-ejection.js';
import type { Signing } from './signing.js';
import { toWireError } from './wire.js';

/** After this long without an end of the request that probes, another one is taken: it may take as long as its deadline. */
const probeMs = 1_000;

/** The membership of one module in its queue group, which it leaves while its requests fail. */
class Membership {
  private readonly ejection: SelfEjection;
  private subscription: Subscription | undefined;
  private isForOne = false;
  private isClosed = false;

  /** @param join joins the group, for one request only or for all */
  constructor(
    module: string,
    canServe: () => Promise<boolean>,
    private readonly join: (isForOne: boolean) => Subscription,
  ) {
    this.ejection = new SelfEjection(module, canServe, () => this.follow());
    this.follow();
  }

  get isEjected(): boolean {
    return this.ejection.state === 'ejected';
  }

  answered(error: unknown): void {
    this.ejection.answered(error);
  }

  /** To be called when a probe has ended, which may have said nothing, or takes too long: another request is taken then. */
  probed(): void {
    if (this.ejection.state === 'probing') this.follow();
  }

  /** Leaves the group for good. */
  async close(): Promise<void> {
    this.isClosed = true;
    this.ejection.close();
    await this.leave();
  }

  private async leave(): Promise<void> {
    const left = this.subscription;
    this.subscription = undefined;
    if (left && !left.isClosed()) await left.drain();
  }

  private follow(): void {
    if (this.isClosed) return;
    const isForOne = this.ejection.state === 'probing';
    const isIn = this.subscription?.isClosed() === false && !this.subscription.isDraining();
    if (isIn && !this.isEjected && (isForOne || !this.isForOne)) return;
    // If NATS is not reached, the subscription is forgotten.
    this.leave().catch(() => undefined);
    if (this.isEjected) return;
    this.isForOne = isForOne;
    this.subscription = this.join(isForOne);
  }
}

/**
 * Answers over NATS, as a member of the queue group of each module that this application answers for. While the requests to
 * a module fail, it leaves the group; if all instances have, requests reach it as the last resort.
 */
export class NatsServer extends AnsweringServer {
  override readonly transportId = Symbol('nats-requests');
  private readonly peer: NatsPeer;
  /** Requests that have not been answered, by their reply subject. */
  private readonly carried = new Set<string>();
  private readonly handling = new InFlight();
  private readonly own = newOwnSubject();
  private readonly memberships = new Map<string, Membership>();
  private subscriptions: Subscription[] = [];
  private largestBytes = 0;
  private isClosed = false;

  constructor(
    at: NatsAddress,
    admission: Admission,
    signing: Signing | undefined,
    private readonly canServe: () => Promise<boolean>,
  ) {
    super(admission, signing);
    this.peer = new NatsPeer(at, 'NATS requests', () => this.largestBytes);
  }

  get isReached(): boolean {
    return this.peer.isReached;
  }

  /** Leaves the queue groups, answers all requests that NATS has delivered already, and then closes the connection. */
  override async close(): Promise<void> {
    this.isClosed = true;
    const left = [...this.memberships.values()].map((it) => it.close());
    // The link has logged a failed drain; callers lost the connection too, or find no instance with their request.
    await Promise.allSettled([...left, ...this.subscriptions.map((it) => it.drain())]);
    if (!(await this.handling.idle(drainMs))) {
      this.logger.error(`${this.handling.count} requests were not finished within ${drainMs} ms and are cut off`);
    }
    await this.peer
      .flush()
      .catch((error: Error) => this.logger.warn(`NATS was unreachable during shutdown (${error.message})`));
    await this.peer.close();
  }

  protected override async start(): Promise<void> {
    if (this.modules.size === 0) throw new Error('this application has no message handlers');
    this.largestBytes = Math.max(...this.operations.map(({ maxBytes }) => maxBytes));
    try {
      const connection = await this.openPatiently();
      const refused: Error[] = [];
      for (const module of this.modules) {
        const heard = (hear: (message: Msg) => void) => ({
          callback: (error: Error | null, message: Msg) => (error ? void refused.push(error) : hear(message)),
        });
        const take = heard((message) => void this.take(message));
        const membership = new Membership(module, this.canServe, (isForOne) => {
          // Not `max: 1`: the NATS client does not repeat that limit when it reconnects, and drops all messages after the
          // first one, which nobody else gets. What arrives until the group is left is answered here.
          const joined = connection.subscribe(requestSubject(`${module}.*`), {
            queue: group,
            ...heard((message) => {
              const taken = this.take(message);
              if (!isForOne || joined.isDraining()) return;
              joined.drain().catch(() => undefined);
              // Once for each: a probe that takes long and then says nothing would be followed by two.
              void Promise.race([taken, setTimeout(probeMs, undefined, { ref: false })]).then(() =>
                membership.probed(),
              );
            }),
          });
          return joined;
        });
        this.memberships.set(module, membership);
        this.subscriptions.push(
          connection.subscribe(requestSubject(`${module}.*`, lastResort), { queue: group, ...take }),
          connection.subscribe(requestSubject(`${module}.*`, this.own), take),
          connection.subscribe(
            presentSubject(module),
            heard((message) => {
              if (!membership.isEjected) message.respond(encodeFrame({ at: this.own }));
            }),
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

  /** Resolves once the request has ended. */
  private async take(message: Msg): Promise<void> {
    const { reply } = message;
    if (!reply) return;
    const membership = this.memberships.get(moduleOf(patternOf(message.subject)));
    this.carried.add(reply);
    await this.handling.during(() => this.handle(message, reply, membership));
    this.carried.delete(reply);
  }

  /** Never rejects. */
  private async handle(message: Msg, reply: string, membership: Membership | undefined): Promise<void> {
    try {
      const arrivedAt = performance.now();
      const { head, body } = await this.peer.request(message);
      const meta = timeLeft(head, performance.now() - arrivedAt);
      const outcome = await this.receive(patternOf(message.subject), { meta, body });
      membership?.answered(outcome.err);
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
