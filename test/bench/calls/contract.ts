import { contract, uuid, type ReplyOf, type RequestOf } from '#contracts';
import { z } from 'zod';

const line = z.object({
  line_id: uuid,
  product_id: z.string().min(1).max(128),
  name: z.string(),
  quantity: z.int().min(1).max(1_000_000),
  unit_price_minor: z.int().min(0),
});

/** As simple as possible, because the transport is to be measured. */
export const echoContract = contract('bench', {
  echo: {
    summary: 'Gives back what it gets, and says who answered.',
    request: z.object({ id: z.int(), lines: z.array(line) }),
    reply: z.object({ id: z.int(), by: z.string(), lines: z.array(line) }),
    errors: [],
    idempotent: true,
    deadlineMs: 10_000,
    maxBytes: 1_000_000,
  },
});

export type EchoRequest = RequestOf<(typeof echoContract)['operations']['echo']>;
export type EchoReply = ReplyOf<(typeof echoContract)['operations']['echo']>;
