import type { AuditEntry } from '#contracts';

/** What is written down of one request. */
export type NewAuditEntry = Omit<AuditEntry, 'at' | 'requests'>;

/** Who did what: added to and never changed. */
export abstract class AuditLog {
  /** Resolves once it cannot be lost any more. */
  abstract append(entry: NewAuditEntry): Promise<void>;
  /**
   * The same of what somebody was not allowed, who may ask for it as often as they like: where that is too often, how often is
   * written down later, and not each time.
   *
   * @param by what they count as, with the other keys that are theirs
   */
  abstract appendRefusal(entry: NewAuditEntry, by: string): Promise<void>;
}
