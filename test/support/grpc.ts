import { fileURLToPath } from 'node:url';
import {
  Client,
  Metadata,
  credentials,
  status as Code,
  type ClientReadableStream,
  type ServiceError,
} from '@grpc/grpc-js';
import { fromJSON, loadSync, type MessageTypeDefinition, type ServiceDefinition } from '@grpc/proto-loader';
import { protoPath as healthProto } from 'grpc-health-check';

const protos = fileURLToPath(new URL('../../libs/order/proto', import.meta.url));
const options = { keepCase: true, longs: Number, enums: String, defaults: true, includeDirs: [protos] };

const definitions = { ...loadSync('cleave/order/v1/order.proto', options), ...loadSync(healthProto, options) };

type Message = Record<string, unknown>;

/** The details of an error (google.rpc), as defined in their `.proto`. */
const text = (id: number) => ({ type: 'string', id });
const details = fromJSON(
  {
    nested: {
      Status: {
        fields: {
          code: { type: 'int32', id: 1 },
          message: text(2),
          details: { rule: 'repeated', type: 'Any', id: 3 },
        },
      },
      Any: { fields: { type_url: text(1), value: { type: 'bytes', id: 2 } } },
      ErrorInfo: {
        fields: { reason: text(1), domain: text(2), metadata: { keyType: 'string', type: 'string', id: 3 } },
      },
      BadRequest: { fields: { field_violations: { rule: 'repeated', type: 'FieldViolation', id: 1 } } },
      FieldViolation: { fields: { field: text(1), description: text(2) } },
      RetryInfo: { fields: { retry_delay: { type: 'Duration', id: 1 } } },
      Duration: { fields: { seconds: { type: 'int64', id: 1 }, nanos: { type: 'int32', id: 2 } } },
    },
  } as Parameters<typeof fromJSON>[0],
  options,
) as Record<string, MessageTypeDefinition<object, object>>;

/** How a call was refused. */
export interface Refusal {
  code: string;
  message: string;
  reason?: string;
  /** The metadata of `ErrorInfo`. */
  info?: Record<string, string>;
  violations?: { field: string; description: string }[];
  retryAfterSeconds?: number;
  /** Whether a replay was announced before the error. */
  replayed: boolean;
}

/** The result of a call. */
export interface Outcome<Reply = Message> {
  reply?: Reply;
  refusal?: Refusal;
  replayed: boolean;
}

const refusalOf = ({ code, details: message, metadata }: ServiceError, replayed: boolean): Refusal => {
  const refusal: Refusal = { code: Code[code], message, replayed };
  const [bytes] = metadata.get('grpc-status-details-bin');
  if (bytes === undefined) return refusal;
  const told = details['Status']!.deserialize(bytes as Buffer) as {
    code: number;
    message: string;
    details: { type_url: string; value: Buffer }[];
  };
  if (told.code !== Number(code) || told.message !== message) throw new Error('the details tell of another error');
  for (const { type_url, value } of told.details) {
    const name = type_url.replace('type.googleapis.com/google.rpc.', '');
    const detail = details[name]!.deserialize(value) as Message;
    if (name === 'ErrorInfo') {
      if (detail['domain'] !== 'cleave') throw new Error('the domain is another one');
      refusal.reason = detail['reason'] as string;
      refusal.info = detail['metadata'] as Record<string, string>;
    }
    if (name === 'BadRequest') refusal.violations = detail['field_violations'] as NonNullable<Refusal['violations']>;
    if (name === 'RetryInfo') refusal.retryAfterSeconds = (detail['retry_delay'] as { seconds: number }).seconds;
  }
  return refusal;
};

export interface CallOptions {
  key?: string;
  metadata?: Record<string, string | Buffer | readonly (string | Buffer)[]>;
  deadlineMs?: number;
  /** Aborts a unary call. */
  signal?: AbortSignal;
  /** The encoded request, instead of a message. */
  raw?: Buffer;
}

/** A stream of messages as a client reads it. */
export class MessageStream {
  private readonly messages: AsyncIterator<Message, undefined>;

  constructor(readonly call: ClientReadableStream<Message>) {
    this.messages = call[Symbol.asyncIterator]();
  }

  async next(): Promise<Message> {
    const { value, done } = await this.messages.next();
    if (done) throw new Error('the stream ended before');
    return value;
  }

  async take(count: number): Promise<Message[]> {
    const taken: Message[] = [];
    while (taken.length < count) taken.push(await this.next());
    return taken;
  }

  /** The error with which the server ends the stream. */
  async refusal(): Promise<Refusal> {
    try {
      for (;;) await this.next();
    } catch (error) {
      return this.refusalIn(error);
    }
  }

  /** @throws the error itself if it is not a refusal */
  refusalIn(error: unknown): Refusal {
    if ((error as ServiceError).metadata === undefined) throw error;
    return refusalOf(error as ServiceError, false);
  }
}

/** A gRPC client with a connection of its own. */
export class GrpcApi {
  private readonly client: Client;

  /** @param at `host:port` */
  constructor(at: string) {
    this.client = new Client(at, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
  }

  /** @param method such as `PlaceOrder`, or the full name for another service */
  call<Reply = Message>(method: string, message: object = {}, sent: CallOptions = {}): Promise<Outcome<Reply>> {
    const { path, requestSerialize, responseDeserialize } = methodOf(method);
    return new Promise((resolve) => {
      let replayed = false;
      const made = this.client
        .makeUnaryRequest(
          path,
          sent.raw ? (bytes: object) => bytes as Buffer : requestSerialize,
          responseDeserialize,
          sent.raw ?? message,
          metadataOf(sent),
          deadlineOf(sent),
          (error, reply) =>
            resolve({ ...(error ? { refusal: refusalOf(error, replayed) } : { reply: reply as Reply }), replayed }),
        )
        .on('metadata', (metadata) => (replayed = metadata.get('idempotent-replayed')[0] === 'true'));
      sent.signal?.addEventListener('abort', () => made.cancel());
    });
  }

  /** The reply to a call that must succeed. */
  async ok<Reply = Message>(method: string, message: object = {}, sent: CallOptions = {}): Promise<Reply> {
    const { reply, refusal } = await this.call<Reply>(method, message, sent);
    if (reply === undefined) throw new Error(`${method} was refused: ${JSON.stringify(refusal)}`);
    return reply;
  }

  /** The refusal of a call that must fail. */
  async refused(method: string, message: object = {}, sent: CallOptions = {}): Promise<Refusal> {
    const { reply, refusal } = await this.call(method, message, sent);
    if (refusal === undefined) throw new Error(`${method} was answered: ${JSON.stringify(reply)}`);
    return refusal;
  }

  stream(method: string, message: object = {}, sent: CallOptions = {}): MessageStream {
    const { path, requestSerialize, responseDeserialize } = methodOf(method);
    return new MessageStream(
      this.client.makeServerStreamRequest(
        path,
        sent.raw ? (bytes: object) => bytes as Buffer : requestSerialize,
        responseDeserialize as (bytes: Buffer) => Message,
        sent.raw ?? message,
        metadataOf(sent),
        deadlineOf(sent),
      ),
    );
  }

  close(): void {
    this.client.close();
  }
}

export const ordersService = 'cleave.order.v1.Orders';

const methodOf = (name: string) => {
  const [method, service = ordersService] = name.split('/').toReversed() as [string, string?];
  const found = (definitions[service] as ServiceDefinition | undefined)?.[method];
  if (!found) throw new Error(`There is no method ${name}`);
  return found;
};

/** The encoded request of a method. */
export const bytesOf = (method: string, message: object): Buffer => methodOf(method).requestSerialize(message);

const metadataOf = ({ key, metadata = {} }: CallOptions): Metadata => {
  const result = new Metadata();
  for (const [name, values] of Object.entries(metadata)) for (const it of [values].flat()) result.add(name, it);
  if (key !== undefined) result.set('idempotency-key', key);
  return result;
};

const deadlineOf = ({ deadlineMs = 60_000 }: CallOptions) => ({ deadline: Date.now() + deadlineMs });
