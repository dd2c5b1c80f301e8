import { z } from 'zod';
import { env } from '#config';
import type { MasterKey } from './master-keys.js';

const message =
  'must be a name, a colon and 32 bytes in base64 (`openssl rand -base64 32`); several with commas, the newest first';

const dataKey = z.string().regex(/^[A-Za-z0-9._-]{1,63}:[A-Za-z0-9+/]{43}=$/, message);

/** `DATA_KEYS=2026-11:<base64>,2025-11:<base64>`. */
export const dataKeys = env
  .list(message)
  .pipe(z.array(dataKey))
  .transform((texts) =>
    texts.map((text): MasterKey => {
      const [id, key] = text.split(':') as [string, string];
      return { id, key: Buffer.from(key, 'base64') };
    }),
  )
  .refine((keys) => new Set(keys.map((it) => it.id)).size === keys.length, 'names a key twice');
