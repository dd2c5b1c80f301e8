import { hash } from 'node:crypto';
import { limits } from '#contracts';

/** Something that happened, which endpoints may ask for. */
export interface Happening {
  tenant: string;
  /** Who reports it. Together with the id, it identifies the happening for ever. */
  source: string;
  id: string;
  type: string;
  at: Date;
  data: Record<string, unknown>;
  /** The trace context of the request that caused it. */
  traceparent?: string | undefined;
}

/** The message about it, the same for every endpoint. */
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
  // Whatever the id contains, a hash fits into a header and has no full stop, which separates what is signed.
  messageId: `msg_${hash('sha256', JSON.stringify([source, id]), 'base64url').slice(0, 32)}`,
  type,
  at,
  payload: payloadOf(type, at, data),
  traceparent,
});

/** Receivers expect small bodies: a larger one loses all `lines`, then its largest fields; receivers fetch the rest. */
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
