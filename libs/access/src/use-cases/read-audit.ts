import type { AuditEntry } from '#contracts';

/** An entry and its number: later ones have higher numbers. */
export type NumberedEntry = AuditEntry & { entryId: number };

/** The entries of the audit log. */
export abstract class AuditTrail {
  /** At most `limit` entries of a tenant, oldest first, after the one with this number. */
  abstract after(tenant: string, entryId: number, limit: number): Promise<NumberedEntry[]>;
}
