import type { z } from 'zod';
import type { ErrorCode } from './errors.js';

/**
 * An operation that one module offers to others, as data. Requests and replies travel as the JSON of their values, dates
 * as RFC 3339 text, and are decoded by their schemas on arrival.
 */
export interface Operation<Request extends z.ZodType = z.ZodType, Reply extends z.ZodType = z.ZodType> {
  /** What the operation does, in a sentence. */
  summary: string;
  request: Request;
  reply: Reply;
  /** The errors that a caller has to expect; any other error reaches it as `internal`. */
  errors: readonly ErrorCode[];
  /** Whether two calls have the effect of one, so that a caller may retry without knowing the outcome. */
  idempotent: boolean;
  /** How long a caller waits for the reply before it gives up with `deadline-exceeded`. */
  deadlineMs: number;
  /** The largest encoded request and the largest encoded reply, in bytes of JSON. */
  maxBytes: number;
}

/** The operations that the module `name` offers to others. Messages are sent as `<name>.<operation>`. */
export interface Contract<Operations extends Record<string, Operation> = Record<string, Operation>> {
  name: string;
  operations: Operations;
}

/** Keeps the precise types of the operations. */
export const contract = <const Operations extends Record<string, Operation>>(
  name: string,
  operations: Operations,
): Contract<Operations> => ({ name, operations });

/** What the caller passes and the handler receives. */
export type RequestOf<O extends Operation> = z.output<O['request']>;
/** What the handler returns and the caller receives. */
export type ReplyOf<O extends Operation> = z.output<O['reply']>;
