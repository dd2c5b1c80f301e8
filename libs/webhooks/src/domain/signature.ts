import { createHmac, randomBytes } from 'node:crypto';

const prefix = 'whsec_';

/** A secret as Standard Webhooks writes it: its key is 24 to 64 bytes long. */
export const newSecret = (): string => prefix + randomBytes(32).toString('base64');

/** The headers that authenticate a message and its time. Receivers deduplicate by the id and refuse old timestamps. */
export const signedHeaders = (
  messageId: string,
  body: string,
  secrets: readonly string[],
  at: Date,
): Record<string, string> => {
  const timestamp = String(Math.floor(at.getTime() / 1_000));
  const signed = `${messageId}.${timestamp}.${body}`;
  return {
    'webhook-id': messageId,
    'webhook-timestamp': timestamp,
    // One signature per secret, because each receiver knows one of them.
    'webhook-signature': secrets.map((it) => signatureOf(signed, it)).join(' '),
  };
};

const signatureOf = (signed: string, secret: string): string => {
  const key = Buffer.from(secret.slice(prefix.length), 'base64');
  return `v1,${createHmac('sha256', key).update(signed).digest('base64')}`;
};
