export interface NatsAddress {
  scheme: 'nats';
  /** Each as `host:port`. */
  servers: readonly string[];
  user?: string;
  pass?: string;
  token?: string;
}

/** The form of an address, for messages about invalid ones. */
export const natsForm = 'nats://[user:password@ or token@]host:port[,host:port…]';

const serverPattern = /^(?:\[[0-9a-f:.]+\]|[^\s:/?#@[\],]+):(\d{1,5})$/i;

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Error('the part before the @ has a % without two hexadecimal digits after it');
  }
};

const credentialsOf = (text: string): Pick<NatsAddress, 'user' | 'pass' | 'token'> => {
  const [first = '', ...rest] = text.split(':').map(decoded);
  if (first === '' || rest.length > 1) throw new Error('the part before the @ is not user:password or a token');
  return rest[0] === undefined ? { token: first } : { user: first, pass: rest[0] };
};

/**
 * Parses an address that begins with `nats://`.
 *
 * @throws Error that says what is wrong without quoting the text, which may contain a password
 */
export const parseNats = (text: string): NatsAddress => {
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
  if (wrong >= 0) throw new Error(`server ${wrong + 1} is not host:port with a port from 1 to 65535`);
  return { scheme: 'nats', servers, ...(at >= 0 && credentialsOf(authority.slice(0, at))) };
};

/** Human-readable address, without credentials. */
export const natsText = ({ servers }: NatsAddress): string => `nats://${servers.join(',')}`;
