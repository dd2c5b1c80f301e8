import type { AuditEntry } from '#contracts';

/** An entry and its number: later ones have higher numbers. */
export type NumberedEntry = AuditEntry & { entryId: number };

/** What was written down. */
export abstract class AuditTrail {
  /** At most `limit` of a tenant, oldest first, those behind the one with this number. */
  abstract after(tenant: string, entryId: number, limit: number): Promise<NumberedEntry[]>;
}
