import { z } from 'zod';

/** A TCP port, 0 meaning any free one. */
export const port = (standard: number) =>
  z
    .string()
    .regex(/^\d{1,5}$/, 'must be a port from 0 to 65535')
    .transform(Number)
    .pipe(z.int().max(65_535, 'must be a port from 0 to 65535'))
    .default(standard);

/**
 * A comma-separated list.
 *
 * @param error the message if it is missing
 */
export const list = (error?: string) => z.string(error).transform((text) => text.split(',').map((it) => it.trim()));

const portsMessage = 'must be ports from 1 to 65535, such as 443,8443';
/** TCP ports to connect to. */
export const ports = (standard: number[]) =>
  z
    .string()
    .regex(/^\d{1,5}(?:,\d{1,5})*$/, portsMessage)
    .transform((text) => text.split(',').map(Number))
    .refine((all) => all.every((it) => it >= 1 && it <= 65_535), portsMessage)
    .default(standard);

/** The name or IP address to listen on. */
export const host = (standard: string) =>
  z
    .string()
    .regex(/^[A-Za-z0-9.:_-]+$/, 'must be a host name or an IP address such as 127.0.0.1')
    .default(standard);

/** A path in the file system; it need not exist yet. */
export const directory = (standard: string) =>
  z
    .string()
    .refine((path) => !path.includes('\0'), 'must be the path of a directory')
    .default(standard);

const isAddress = (text: string, protocols: string[]): boolean => {
  if (!URL.canParse(text)) return false;
  const url = new URL(text);
  return protocols.includes(url.protocol) && url.hostname !== '';
};

/** An address with one of the given protocols and a host. */
const address = (protocols: string[], example: string) => {
  const error = `must be an address such as ${example}`;
  return z.string({ error }).refine((text) => isAddress(text, protocols), error);
};

export const postgresUrl = address(['postgres:', 'postgresql:'], 'postgres://user:password@host:5432/database');
const redisProtocols = ['redis:', 'rediss:'];
export const redisUrl = address(redisProtocols, 'redis://host:6379/0');
const redisUrlsMessage = 'must be redis://host:6379/0, or some masters of a cluster: redis://host:6379,host:6379';
/** One Redis server, or a cluster named by some of its masters. */
export const redisUrls = z.string(redisUrlsMessage).refine((text) => {
  const [first, ...others] = text.split(',') as [string, ...string[]];
  return isAddress(first, redisProtocols) && others.every((it) => isAddress(`redis://${it}`, redisProtocols));
}, redisUrlsMessage);
export const httpUrl = address(['http:', 'https:'], 'http://host:3000');

/** True or false; false if unset. */
export const flag = z
  .enum(['true', 'false', '1', '0'], 'must be true or false')
  .transform((text) => text === 'true' || text === '1')
  .default(false);

/** One of several values; the first if unset. */
export const choice = <const Choice extends string>(choices: readonly [Choice, ...Choice[]]) =>
  z.enum(choices, `must be ${choices.join(' or ')}`).default(choices[0] as never);

const wholeNumber = (what: string, longest: number) => {
  const error = `must be a whole number${what} from 1 to ${longest}`;
  return z
    .string()
    .regex(new RegExp(`^\\d{1,${String(longest).length}}$`), error)
    .transform(Number)
    .pipe(z.int().min(1, error).max(longest, error));
};

/** A whole number from 1 to a million. */
export const count = (standard: number) => wholeNumber('', 1_000_000).default(standard);

/** A duration in milliseconds, from 1 to a day unless another maximum is given. */
export const milliseconds = (standard: number, longest = 86_400_000) =>
  wholeNumber(' of milliseconds', longest).default(standard);

/** A duration in seconds, from 1 to two years. */
export const seconds = wholeNumber(' of seconds', 63_072_000);

/** A duration in hours, from 1 to a year. */
export const hours = (standard: number) => wholeNumber(' of hours', 8_784).default(standard);
