import type { AuditEntry } from '#contracts';

/** Who did what: added to and never changed. */
export abstract class AuditLog {
  /** Resolves once it cannot be lost any more. */
  abstract append(entry: Omit<AuditEntry, 'at'>): Promise<void>;
}
