import { natsForm, parseNats, type NatsAddress } from '#nats';
import { z } from 'zod';

/** How events reach those who follow them: by reading the log themselves, or through NATS. */
export type EventBusAddress = { scheme: 'postgres' } | NatsAddress;

const supported = `must be postgres: or ${natsForm} (an IPv6 host in brackets)`;

const parse = (text: string): EventBusAddress => {
  if (text === 'postgres:') return { scheme: 'postgres' };
  if (!text.startsWith('nats://')) throw new Error(supported);
  try {
    return parseNats(text);
  } catch (error) {
    throw new Error(`${(error as Error).message}; an address ${supported}`, { cause: error });
  }
};

/** Parses `postgres:`, which is the default, or `nats://[user:password@]host:port[,host:port…]`. */
export const eventBus: z.ZodType<EventBusAddress, string | undefined> = z
  .string({ error: supported })
  .default('postgres:')
  .transform((text, context) => {
    try {
      return parse(text.trim());
    } catch (error) {
      context.issues.push({ code: 'custom', input: text, message: (error as Error).message });
      return z.NEVER;
    }
  });
