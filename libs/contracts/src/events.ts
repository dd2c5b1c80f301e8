import { z } from 'zod';
import { moment } from './values.js';

/**
 * The position of an event in the log of its module, as text that sorts like the log: the id of the transaction (20
 * digits) and the number within the log (19 digits).
 */
export const logPosition = z.string().regex(/^\d{20}-\d{19}$/, 'is not a position in a log');
/** The position before the first event. */
export const logBeginning = `${'0'.repeat(20)}-${'0'.repeat(19)}`;

/**
 * An event in the envelope of CloudEvents 1.0, with the extensions Sequence and Distributed Tracing. `source` and `id`
 * identify it for ever; `subject` is what it is about. The events of one subject are delivered in order.
 */
export const cloudEvent = <Type extends z.ZodType<string>, Data extends z.ZodType>(type: Type, data: Data) =>
  z.object({
    specversion: z.literal('1.0'),
    id: z.string(),
    source: z.string(),
    type,
    subject: z.string(),
    time: moment,
    tenantid: z.string(),
    sequence: logPosition,
    traceparent: z.string().optional(),
    data,
  });
