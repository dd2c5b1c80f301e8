import {
  AckPolicy,
  DeliverPolicy,
  jetstream,
  jetstreamManager,
  type ConsumerMessages,
  type JsMsg,
} from '@nats-io/jetstream';
import { nanos } from '@nats-io/transport-node';
import type { NatsLink } from '#nats';
import { streamOf, subjectOf } from './nats-stream.js';

/** After how long a message that was not acknowledged is delivered to another instance. */
const ackWaitMs = 10_000;
/** How long JetStream keeps a consumer without a reader; a reader that returns later continues from the log. */
const forgottenAfterMs = 24 * 3_600_000;
const mostArrived = 1_000;
const mostArrivedBytes = 4_194_304;
/** How soon a pull that has silently ended is noticed. */
const heartbeatMs = 1_000;
const pullMs = 2_000;
/** The timeout of requests while a pull is renewed. */
const answerMs = 2_000;
const retryMs = 1_000;

interface Options {
  log: string;
  consumer: string;
  part: number;
  epoch: string;
  /** Called when a message has arrived. */
  arrive: () => void;
  /** Called when messages are received from now on, though not those from before. */
  opened: () => void;
  failed: (error: unknown) => void;
}

export interface Arrived {
  message: JsMsg;
  /** Whether the log has been read to its end since. */
  isCompared: boolean;
}

/**
 * The messages of one part that have arrived while this instance holds it. Any of them may be lost at any time, and the
 * buffer is bounded by dropping messages: JetStream delivers them again, and the log has them before that.
 */
export class PartFeed {
  /** By sequence number in the stream, so that a message that is delivered again is there once. */
  private readonly messages = new Map<number, Arrived>();
  private bytes = 0;
  private pull: ConsumerMessages | undefined;
  private isOpening = false;
  private retryAt = 0;
  private isClosed = false;
  private passed: JsMsg | undefined;

  constructor(
    private readonly connection: NatsLink,
    private readonly options: Options,
  ) {}

  get epoch(): string {
    return this.options.epoch;
  }

  get isHeard(): boolean {
    return this.pull !== undefined && this.connection.isUp;
  }

  /** In the order of arrival, by sequence number in the stream. */
  get arrived(): ReadonlyMap<number, Arrived> {
    return this.messages;
  }

  /** Marks a message as handled; `acknowledge` confirms all that were passed to JetStream. */
  pass(number: number): void {
    this.passed = this.messages.get(number)?.message;
    this.bytes -= this.passed?.data.length ?? 0;
    this.messages.delete(number);
  }

  /** The passed messages did not take effect. */
  rewind(): void {
    this.passed = undefined;
    for (const arrived of this.messages.values()) arrived.isCompared = false;
  }

  acknowledge(): void {
    if (this.isHeard) this.passed?.ack();
    this.passed = undefined;
  }

  /** Subscribes again in the background, if the part is not subscribed. */
  listen(): void {
    if (this.pull || this.isOpening || this.isClosed || performance.now() < this.retryAt) return;
    this.isOpening = true;
    this.open()
      .catch((error: unknown) => this.options.failed(error))
      .finally(() => {
        this.isOpening = false;
        this.retryAt = performance.now() + retryMs;
      });
  }

  close(): void {
    this.isClosed = true;
    void this.pull?.close();
  }

  private async open(): Promise<void> {
    const { log, consumer, part } = this.options;
    const connection = await this.connection.open();
    const { consumers } = await jetstreamManager(connection, { checkAPI: false });
    const name = `${consumer}-${part}`;
    const info = await consumers.add(streamOf(log), {
      durable_name: name,
      filter_subject: subjectOf(log, part),
      deliver_policy: DeliverPolicy.New,
      ack_policy: AckPolicy.All,
      ack_wait: nanos(ackWaitMs),
      max_ack_pending: mostArrived,
      inactive_threshold: nanos(forgottenAfterMs),
    });
    if (this.isClosed) return;
    // In a stream that was recreated, the sequence numbers start again.
    this.messages.clear();
    this.bytes = 0;
    this.passed = undefined;
    const pull = await jetstream(connection, { timeout: answerMs })
      .consumers.getConsumerFromInfo(info)
      .consume({
        ...{ max_messages: mostArrived / 2, expires: pullMs, idle_heartbeat: heartbeatMs },
        abort_on_missing_resource: true,
        callback: (message) => this.arrive(message),
      });
    this.pull = pull;
    this.options.opened();
    void pull.closed().then(() => {
      this.pull = undefined;
    });
    if (this.isClosed) await pull.close();
  }

  private arrive(message: JsMsg): void {
    if (this.isClosed || (this.bytes > mostArrivedBytes && !this.messages.has(message.seq))) return;
    this.bytes += message.data.length - (this.messages.get(message.seq)?.message.data.length ?? 0);
    this.messages.set(message.seq, { message, isCompared: false });
    this.options.arrive();
  }
}
