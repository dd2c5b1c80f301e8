import { CleaveError, isErrorCode, type Contract, type ErrorCode, type Fault, type Operation } from '#contracts';
import { z } from 'zod';

/** What travels with a request besides its body. */
export interface MessageMetadata {
  /**
   * When the caller stops waiting; later replies are dropped. A long-running handler may check it to stop early, and calls
   * that it makes with this metadata are bound by it too.
   */
  deadlineAt: Date;
  tenant: string;
  idempotencyKey?: string;
  traceparent?: string;
  /** The id of the external request that caused this one, for the log. */
  requestId?: string;
}

/**
 * The deadline travels as the remaining time, because the clocks of two machines differ; time in transit does not count.
 * Over Redis, where requests queue, the reader subtracts the time since the entry was written, by the clock of Redis.
 */
const wireMetadata = z.object({
  tenant: z.string().min(1).max(128),
  idempotencyKey: z.string().max(255).optional(),
  traceparent: z.string().max(255).optional(),
  requestId: z.string().max(255).optional(),
  remainingMs: z.number(),
  /** Milliseconds since 1970, and the signature over it and the rest, if the services share a secret. */
  signedAt: z.int().optional(),
  signature: z.string().max(64).optional(),
});

/**
 * A request as it travels under the pattern `<module>.<operation>`. The body is JSON text: it is serialised once, its size
 * can be checked directly, and the in-process transport goes through the same text as the others.
 */
export const wireRequest = z.compile(z.object({ meta: wireMetadata, body: z.string() }));
export type WireRequest = z.output<typeof wireRequest>;

/** An error as it is sent. */
export interface WireError {
  code: ErrorCode;
  detail: string;
  extensions: Record<string, unknown>;
}

/** Errors of the transport itself, which every caller has to expect. */
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
 * The JSON text of a value; `''` stands for undefined. Only the receiver validates it against the schema: the sender's value
 * has that type already, and validating a batch of orders at both ends takes as long as deciding it.
 */
const encode = (value: unknown): string => JSON.stringify(value) ?? '';

const compiled = new WeakMap<z.ZodType, z.ZodType>();

/**
 * Every message is validated on arrival; for a batch, that takes a fifth of the time, so schemas are compiled. Each one at
 * its first message, because compiling those of all operations would delay every start.
 */
function decode(schema: z.ZodType, text: string): unknown {
  let fast = compiled.get(schema);
  if (!fast) compiled.set(schema, (fast = z.compile(schema)));
  return z.decode(fast, text === '' ? undefined : (JSON.parse(text) as unknown));
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
  // UTF-8 takes at most three bytes for each UTF-16 code unit.
  if (text.length * 3 <= maxBytes) return text;
  const bytes = Buffer.byteLength(text);
  if (bytes <= maxBytes) return text;
  const detail = `The ${what} of ${pattern} has ${bytes} bytes; at most ${maxBytes} are allowed. Ask for less at once`;
  throw new CleaveError('payload-too-large', detail, { bytes, max_bytes: maxBytes });
}

/** @throws CleaveError `invalid-request` if the value has no JSON, `payload-too-large` */
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

/** A reply that exists as JSON text already and is sent unchanged. */
export class JsonReply {
  constructor(readonly text: string) {}
}

/** @throws CleaveError `payload-too-large`; TypeError if the reply has no JSON */
export const encodeReply = (operation: NamedOperation, reply: unknown): string =>
  checkSize('reply', reply instanceof JsonReply ? reply.text : encode(reply), operation);

/** @throws CleaveError `payload-too-large`; ZodError or SyntaxError when the reply is not what the contract promises */
export const decodeReply = (operation: NamedOperation, text: string): unknown =>
  decode(operation.reply, checkSize('reply', text, operation));

/** The extensions are normalised through JSON, so that they are the same over every transport. */
export const toWireError = ({ code, detail, extensions }: CleaveError): WireError => ({
  code,
  detail,
  extensions: JSON.parse(JSON.stringify(extensions)) as Record<string, unknown>,
});

/** Whether a limiter refused the request for overload, so that it has had no effect. */
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

const failures: ReadonlySet<ErrorCode> = new Set(['unavailable', 'internal']);

/**
 * What an answer says about the instance that gave it: that it works, that it has too much to do or too little time, or that
 * it fails.
 */
export function verdictOf(error: unknown): 'answered' | 'busy' | 'failing' {
  if (error === undefined) return 'answered';
  // An unknown code comes from a newer version of the module. What has no code means that the operation has no handler there.
  if (!isWireError(error)) {
    const hasCode = typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string';
    return hasCode ? 'answered' : 'failing';
  }
  if (isTooMuch(error) || error.code === 'deadline-exceeded') return 'busy';
  return failures.has(error.code) ? 'failing' : 'answered';
}
