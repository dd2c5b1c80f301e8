import { createHmac, timingSafeEqual } from 'node:crypto';
import type { FactoryProvider } from '@nestjs/common';
import type { z } from 'zod';
import { CleaveError, invalidRequest, limits } from '#contracts';
import { cursorSecret, sqlToken, type Sql } from '#database';

/**
 * The page size from the text of `?limit=`: 50 if left out, capped at 200.
 *
 * @throws CleaveError `invalid-request` for anything but a whole number from 1
 */
export const pageLimit = (text: string | undefined): number => {
  if (text === undefined) return limits.defaultPage;
  if (!/^\d+$/.test(text) || /^0+$/.test(text)) throw invalidRequest('limit', 'must be a whole number from 1');
  return Math.min(Number(text), limits.page);
};

const signatureBytes = 16;

/**
 * Opaque pagination cursors, signed so that only cursors issued here are accepted. The content is not secret; the signature
 * only prevents forgery. Instances that serve the same list share the secret.
 */
export class Cursors {
  /** @param secret at least 16 bytes */
  constructor(private readonly secret: string | Uint8Array) {
    if (Buffer.byteLength(secret) < 16) throw new RangeError('The secret of cursors must have at least 16 bytes.');
  }

  /** @param payload plain JSON */
  write(payload: unknown): string {
    const content = Buffer.from(JSON.stringify(payload));
    return Buffer.concat([this.signatureOf(content), content]).toString('base64url');
  }

  /**
   * @returns the payload; undefined without a cursor
   * @throws CleaveError `invalid-cursor` unless it is an unchanged cursor of ours whose payload fits the schema
   */
  read<Schema extends z.ZodType>(cursor: string | undefined, schema: Schema): z.output<Schema> | undefined {
    if (cursor === undefined) return undefined;
    const parsed = schema.safeParse(this.payloadOf(cursor));
    if (!parsed.success) throw notOurs();
    return parsed.data;
  }

  private payloadOf(cursor: string): unknown {
    const bytes = Buffer.from(cursor, 'base64url');
    const content = bytes.subarray(signatureBytes);
    // Node ignores characters that are not base64url, and the last character may carry unused bits.
    if (content.length === 0 || bytes.toString('base64url') !== cursor) throw notOurs();
    if (!timingSafeEqual(bytes.subarray(0, signatureBytes), this.signatureOf(content))) throw notOurs();
    return JSON.parse(content.toString());
  }

  private signatureOf(content: Uint8Array): Buffer {
    return createHmac('sha256', this.secret).update(content).digest().subarray(0, signatureBytes);
  }
}

/** Provides the cursors signed with the secret in the schema of a database that was set up with `databaseFor`. */
export const cursorsIn = (database: string, schema: string): FactoryProvider<Cursors> => ({
  provide: Cursors,
  inject: [sqlToken(database)],
  useFactory: async (sql: Sql) => new Cursors(await cursorSecret(sql, schema)),
});

const notOurs = (): CleaveError =>
  new CleaveError(
    'invalid-cursor',
    'Pass the `next_cursor` of the previous page unchanged, or leave it out to start from the beginning.',
  );
