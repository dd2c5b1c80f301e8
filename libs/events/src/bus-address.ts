import { z } from 'zod';

export interface NatsAddress {
  scheme: 'nats';
  /** Each as `host:port`. */
  servers: readonly string[];
  user?: string;
  pass?: string;
  token?: string;
}

/** What brings events to those who follow them: the log alone, which they then read themselves, or NATS. */
export type EventBusAddress = { scheme: 'postgres' } | NatsAddress;

const supported =
  'must be postgres: or nats://[user:password@ or token@]host:port[,host:port…] (an IPv6 host in brackets)';

const serverPattern = /^(?:\[[0-9a-f:.]+\]|[^\s:/?#@[\],]+):(\d{1,5})$/i;

const credentialsOf = (text: string): Pick<NatsAddress, 'user' | 'pass' | 'token'> => {
  const [first = '', ...rest] = text.split(':').map(decodeURIComponent);
  if (first === '' || rest.length > 1) throw new Error(supported);
  return rest[0] === undefined ? { token: first } : { user: first, pass: rest[0] };
};

/** No message repeats any of the text: where it is wrong, what is a password in it cannot be told. */
const parse = (text: string): EventBusAddress => {
  if (text === 'postgres:') return { scheme: 'postgres' };
  if (!text.startsWith('nats://')) throw new Error(supported);
  const authority = text.slice('nats://'.length);
  const at = authority.lastIndexOf('@');
  const servers = authority
    .slice(at + 1)
    .split(',')
    .map((it) => it.trim());
  const wrong = servers.findIndex((it) => {
    const port = Number(serverPattern.exec(it)?.[1]);
    return !(port >= 1 && port <= 65_535);
  });
  if (wrong >= 0)
    throw new Error(`server ${wrong + 1} is not host:port with a port from 1 to 65535; an address ${supported}`);
  return { scheme: 'nats', servers, ...(at >= 0 && credentialsOf(authority.slice(0, at))) };
};

/** Parses `postgres:`, which is the default, or `nats://[user:password@]host:port[,host:port…]`. */
export const eventBus: z.ZodType<EventBusAddress, string | undefined> = z
  .string({ error: supported })
  .default('postgres:')
  .transform((text, context) => {
    try {
      return parse(text.trim());
    } catch (error) {
      const message = error instanceof URIError ? supported : (error as Error).message;
      context.issues.push({ code: 'custom', input: text, message });
      return z.NEVER;
    }
  });
