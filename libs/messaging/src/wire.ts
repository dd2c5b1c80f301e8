import { CleaveError, isErrorCode, type Contract, type ErrorCode, type Fault, type Operation } from '#contracts';
import { z } from 'zod';

/** What travels with a request beside its content. */
export interface MessageMetadata {
  /**
   * When the caller stops waiting. A reply after it is dropped; a handler of long work may look at it to stop before that,
   * and what it asks of others with these metadata stops at it as well.
   */
  deadlineAt: Date;
  tenant: string;
  idempotencyKey?: string;
  traceparent?: string;
  /** Of the request from outside that it goes back to, for the log. */
  requestId?: string;
}

/**
 * The time left travels as a duration, because the clocks of two machines differ: the time a message spends on the way is
 * given to the server for free. Redis, where messages queue, adds the time since the entry was written, by its own clock.
 */
const wireMetadata = z.object({
  tenant: z.string().min(1).max(128),
  idempotencyKey: z.string().max(255).optional(),
  traceparent: z.string().max(255).optional(),
  requestId: z.string().max(255).optional(),
  remainingMs: z.number(),
  /** Milliseconds since 1970, and the signature of it and of the rest, where the services share a secret. */
  signedAt: z.int().optional(),
  signature: z.string().max(64).optional(),
});

/**
 * A request as it travels under the pattern `<module>.<operation>`. The body is JSON text: it is written once, its size is
 * known where it is checked, and the in-process transport passes through text like the others.
 */
export const wireRequest = z.compile(z.object({ meta: wireMetadata, body: z.string() }));
export type WireRequest = z.output<typeof wireRequest>;

/** An error as it travels. */
export interface WireError {
  code: ErrorCode;
  detail: string;
  extensions: Record<string, unknown>;
}

/** What the transport itself answers with; every caller has to expect these. */
export const transportErrors: readonly ErrorCode[] = [
  'unavailable',
  'deadline-exceeded',
  'invalid-request',
  'payload-too-large',
  'internal',
];

export const defaultTenant = 'default';

/** One operation of a contract under its name on the wire. */
export interface NamedOperation extends Operation {
  pattern: string;
}

/** @throws CleaveError `internal` when the contract has no such operation */
export function operationOf(contract: Contract, name: string): NamedOperation {
  const pattern = `${contract.name}.${name}`;
  if (!Object.hasOwn(contract.operations, name)) {
    throw new CleaveError('internal', `The contract of ${contract.name} has no operation "${name}"`);
  }
  return { ...(contract.operations[name] as Operation), pattern };
}

/**
 * The JSON text of a value; `''` stands for undefined. Whoever receives it checks it by the schema: what is sent has the
 * type of it already, and to check a batch of orders at both ends takes as long as to decide it.
 */
const encode = (value: unknown): string => JSON.stringify(value) ?? '';

function decode(schema: z.ZodType, text: string): unknown {
  return z.decode(schema, text === '' ? undefined : (JSON.parse(text) as unknown));
}

const faultsOf = (error: unknown): Fault[] =>
  error instanceof z.ZodError
    ? error.issues.map(({ path, message }) => ({ path: path.map(String).join('.'), message }))
    : [{ path: '', message: error instanceof Error ? error.message : String(error) }];

function invalidRequest(pattern: string, cause: unknown): CleaveError {
  const faults = faultsOf(cause);
  const told = faults.slice(0, 3).map(({ path, message }) => (path ? `${path}: ${message}` : message));
  return new CleaveError(
    'invalid-request',
    `The request to ${pattern} is not valid: ${told.join('; ')}`,
    { faults },
    { cause },
  );
}

function checkSize(what: string, text: string, { pattern, maxBytes }: NamedOperation): string {
  // No character takes more than three bytes of UTF-8.
  if (text.length * 3 <= maxBytes) return text;
  const bytes = Buffer.byteLength(text);
  if (bytes <= maxBytes) return text;
  const detail = `The ${what} of ${pattern} has ${bytes} bytes; at most ${maxBytes} are allowed. Ask for less at once`;
  throw new CleaveError('payload-too-large', detail, { bytes, max_bytes: maxBytes });
}

/** @throws CleaveError `invalid-request` for what has no JSON, `payload-too-large` */
export function encodeRequest(operation: NamedOperation, request: unknown): string {
  let text: string;
  try {
    text = encode(request);
  } catch (error) {
    throw invalidRequest(operation.pattern, error);
  }
  return checkSize('request', text, operation);
}

/** @throws CleaveError `invalid-request`, `payload-too-large` */
export function decodeRequest(operation: NamedOperation, text: string): unknown {
  checkSize('request', text, operation);
  try {
    return decode(operation.request, text);
  } catch (error) {
    throw invalidRequest(operation.pattern, error);
  }
}

/** A reply of which its maker has the JSON text already: it is sent as it is. */
export class JsonReply {
  constructor(readonly text: string) {}
}

/** @throws CleaveError `payload-too-large`; TypeError when the handler returned what has no JSON */
export const encodeReply = (operation: NamedOperation, reply: unknown): string =>
  checkSize('reply', reply instanceof JsonReply ? reply.text : encode(reply), operation);

/** @throws CleaveError `payload-too-large`; ZodError or SyntaxError when the reply is not what the contract promises */
export const decodeReply = (operation: NamedOperation, text: string): unknown =>
  decode(operation.reply, checkSize('reply', text, operation));

/** The extensions go through JSON text here, so that they are the same at any distance. */
export const toWireError = ({ code, detail, extensions }: CleaveError): WireError => ({
  code,
  detail,
  extensions: JSON.parse(JSON.stringify(extensions)) as Record<string, unknown>,
});

/** Whether a limiter has said that there is too much to do: what it refuses has had no effect. */
export const isTooMuch = (error: unknown): boolean => {
  const { code, extensions } = (error ?? {}) as Partial<WireError>;
  return code === 'unavailable' && extensions?.['retry_after_ms'] !== undefined;
};

export const isWireError = (error: unknown): error is WireError =>
  typeof error === 'object' &&
  error !== null &&
  !(error instanceof Error) &&
  'code' in error &&
  isErrorCode(error.code) &&
  'detail' in error &&
  typeof error.detail === 'string';
