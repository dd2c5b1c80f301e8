import { withoutBrackets } from '#config';
import { natsForm, natsText, parseNats, type NatsAddress } from '#nats';
import { z } from 'zod';

export interface Endpoint {
  host: string;
  port: number;
}

/** Where a module is found, or where it listens. */
export type Address =
  | { scheme: 'in-process' }
  | { scheme: 'tcp'; endpoints: readonly Endpoint[] }
  | { scheme: 'redis'; url: string }
  | NatsAddress;

const supported =
  'must be in-process:, tcp://host:port[,host:port…] (an IPv6 host in brackets), ' +
  `redis://[user:password@]host:port[/database] (rediss:// for TLS) or ${natsForm}`;

const endpointPattern = /^(?:\[([0-9a-f:.]+)\]|([^\s:/?#@[\],]+)):(\d{1,5})$/i;

function parseEndpoint(text: string): Endpoint {
  const match = endpointPattern.exec(text.trim());
  const port = Number(match?.[3]);
  if (!match || port < 1 || port > 65_535) {
    throw new Error(`"${text}" is not host:port with a port from 1 to 65535; an address ${supported}`);
  }
  return { host: (match[1] ?? match[2]) as string, port };
}

function parseRedis(text: string): Address {
  const url = URL.parse(text);
  if (!url?.hostname || url.search || url.hash || !/^(?:\/\d*)?$/.test(url.pathname)) {
    throw new Error('is not redis://[user:password@]host:port[/database], or rediss:// for TLS');
  }
  return { scheme: 'redis', url: url.href };
}

function parse(text: string): Address {
  if (text === 'in-process:') return { scheme: 'in-process' };
  if (text.startsWith('tcp://')) {
    return { scheme: 'tcp', endpoints: text.slice('tcp://'.length).split(',').map(parseEndpoint) };
  }
  if (/^rediss?:\/\//.test(text)) return parseRedis(text);
  if (text.startsWith('nats://')) return parseNats(text);
  throw new Error(supported);
}

/** The hosts of an address; empty for `in-process:`. */
export const hostsOf = (at: Address): string[] => {
  switch (at.scheme) {
    case 'in-process':
      return [];
    case 'tcp':
      return at.endpoints.map(({ host }) => host);
    case 'redis':
      return [withoutBrackets(new URL(at.url).hostname)];
    case 'nats':
      return at.servers.map((it) => withoutBrackets(it.slice(0, it.lastIndexOf(':'))));
  }
};

/**
 * Parses `in-process:`, `tcp://host:port[,host:port…]`, `redis://[user:password@]host:port[/database]` (or `rediss://`) or
 * `nats://[user:password@]host:port[,host:port…]`.
 */
export const address: z.ZodType<Address, string> = z.string({ error: supported }).transform((text, context) => {
  try {
    return parse(text.trim());
  } catch (error) {
    context.issues.push({ code: 'custom', input: text, message: (error as Error).message });
    return z.NEVER;
  }
});

/** An address to listen at: `tcp://` with exactly one host and port. */
export const listenAddress: z.ZodType<Address, string> = address.refine(
  (at) => at.scheme !== 'tcp' || at.endpoints.length === 1,
  'must name exactly one host:port to listen at',
);

export const endpointText = ({ host, port }: Endpoint): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;

/** Human-readable address, without credentials. */
export function addressText(at: Address): string {
  if (at.scheme === 'in-process') return 'in-process:';
  if (at.scheme === 'tcp') return `tcp://${at.endpoints.map(endpointText).join(',')}`;
  if (at.scheme === 'nats') return natsText(at);
  const { protocol, host, pathname } = new URL(at.url);
  return `${protocol}//${host}${pathname}`;
}
