import { hash } from 'node:crypto';
import { limits } from '#contracts';

/** Something that happened, which endpoints may ask for. */
export interface Happening {
  tenant: string;
  /** Who tells it. Together with the id it names it for ever. */
  source: string;
  id: string;
  type: string;
  at: Date;
  data: Record<string, unknown>;
  /** Of the request that it goes back to. */
  traceparent?: string | undefined;
}

/** What is sent of it, to every endpoint the same. */
export interface Message {
  tenant: string;
  messageId: string;
  type: string;
  at: Date;
  payload: string;
  traceparent?: string | undefined;
}

export const messageOf = ({ tenant, source, id, type, at, data, traceparent }: Happening): Message => ({
  tenant,
  // Whatever an id is made of, this fits into a header, and has no full stop, which divides what is signed.
  messageId: `msg_${hash('sha256', JSON.stringify([source, id]), 'base64url').slice(0, 32)}`,
  type,
  at,
  payload: payloadOf(type, at, data),
  traceparent,
});

/** Receivers read small bodies: what is too large is told without lines, wherever it has any; they ask for the rest. */
const payloadOf = (type: string, at: Date, data: Record<string, unknown>): string => {
  const written = (some: Record<string, unknown>): string =>
    JSON.stringify({ type, timestamp: at.toISOString(), data: some });
  let payload = written(data);
  if (fits(payload)) return payload;
  let kept = { ...withoutLines(data), truncated: true };
  for (payload = written(kept); !fits(payload); payload = written(kept)) {
    const { [largestOf(kept)]: _left, ...rest } = kept as Record<string, unknown>;
    kept = { ...rest, truncated: true };
  }
  return payload;
};

const fits = (payload: string): boolean => Buffer.byteLength(payload) <= limits.webhookPayloadBytes;

const withoutLines = (data: Record<string, unknown>): Record<string, unknown> =>
  JSON.parse(JSON.stringify(data, (name, value: unknown) => (name === 'lines' ? undefined : value))) as typeof data;

const largestOf = (data: Record<string, unknown>): string => {
  const sizes = Object.entries(data).map(([name, value]) => [name, name.length + sizeOf(value)] as const);
  return sizes.reduce((one, other) => (other[1] > one[1] ? other : one))[0];
};

const sizeOf = (value: unknown): number => JSON.stringify(value)?.length ?? 0;
