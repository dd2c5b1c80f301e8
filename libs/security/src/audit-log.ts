import type { AuditEntry } from '#contracts';

/** An audit entry before the log adds its time and the number of requests it stands for. */
export type NewAuditEntry = Omit<AuditEntry, 'at' | 'requests'>;

/** The audit log: who did what. Entries are appended and never changed. */
export abstract class AuditLog {
  /** Resolves once the entry is durable. */
  abstract append(entry: NewAuditEntry): Promise<void>;
  /**
   * Appends an entry about a refused request. Refusals have no limit, so if a caller is refused too often, the rest are
   * counted and written later as one entry.
   *
   * @param by the identity that the refusals are counted by (`countedAs`)
   */
  abstract appendRefusal(entry: NewAuditEntry, by: string): Promise<void>;
}
