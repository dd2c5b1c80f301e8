import { z } from 'zod';
import type { ErrorCode } from './errors.js';

/**
 * One thing a module can be asked by another, as data. Requests and replies travel as the JSON of their values, dates as
 * RFC 3339 text, and are decoded by their schemas where they arrive.
 */
export interface Operation<Request extends z.ZodType = z.ZodType, Reply extends z.ZodType = z.ZodType> {
  /** What the operation does, in a sentence. */
  summary: string;
  request: Request;
  reply: Reply;
  /** The refusals a caller has to expect; any other error reaches it as `internal`. */
  errors: readonly ErrorCode[];
  /** Whether asking twice has the effect of asking once, so that a caller may retry without knowing what happened. */
  idempotent: boolean;
  /** How long a caller waits for the reply before it gives up with `deadline-exceeded`. */
  deadlineMs: number;
  /** The largest encoded request and the largest encoded reply, in bytes of JSON. */
  maxBytes: number;
}

/** What one module answers to the others. `name` is the module's; messages travel as `<name>.<operation>`. */
export interface Contract<Operations extends Record<string, Operation> = Record<string, Operation>> {
  name: string;
  operations: Operations;
}

/**
 * Keeps the precise types of the operations. Their schemas are compiled, as every message is checked where it arrives: of a
 * batch that takes a fifth of the time.
 */
export const contract = <const Operations extends Record<string, Operation>>(
  name: string,
  operations: Operations,
): Contract<Operations> => ({
  name,
  operations: Object.fromEntries(
    Object.entries(operations).map(([key, { request, reply, ...operation }]) => [
      key,
      { ...operation, request: z.compile(request), reply: z.compile(reply) },
    ]),
  ) as Operations,
});

/** What the caller passes and the handler receives. */
export type RequestOf<O extends Operation> = z.output<O['request']>;
/** What the handler returns and the caller receives. */
export type ReplyOf<O extends Operation> = z.output<O['reply']>;
