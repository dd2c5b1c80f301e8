import { Injectable } from '@nestjs/common';
import { PeriodicWork } from '#periodic';
import type { AuditLog, NewAuditEntry } from '#security';

export abstract class AuditEntries {
  /** Resolves once it is kept. @param requests how many the entry is about, the one that it names being the last */
  abstract add(entry: NewAuditEntry, requests: number): Promise<void>;
  /** The same of how something ended that is kept already: none of those that are added is waited for. */
  abstract addEnd(entry: NewAuditEntry): Promise<void>;
}

const minuteMs = 60_000;
/** Of what somebody is refused in a minute, so much is written down one by one. */
const mostRefusals = 10;
/** Of so many it is counted at a time what they are refused; where there are more, those who came first are written down. */
export const mostRefused = 10_000;
const settledAtOnce = 200;

interface Refused {
  written: number;
  /** How many are not written down yet, and the last of them. */
  leftOut: number;
  last: NewAuditEntry;
}

/**
 * Writes down who does what. Of what somebody is not allowed, and can ask for without end, there are a few entries in a
 * minute, and then one that says how many requests it is about: what nothing is ever removed from is not to be filled by those
 * who may do nothing.
 */
@Injectable()
export class KeepAudit extends PeriodicWork implements AuditLog {
  private readonly refused = new Map<string, Refused>();

  constructor(private readonly entries: AuditEntries) {
    super(minuteMs, 'how often callers were refused is written down later');
  }

  append(entry: NewAuditEntry): Promise<void> {
    return entry.status === null ? this.entries.add(entry, 1) : this.entries.addEnd(entry);
  }

  async appendRefusal(entry: NewAuditEntry, who: string): Promise<void> {
    // Of each operation by itself, so that nobody hides one behind many of another.
    const by = JSON.stringify([who, entry.operation]);
    const refused = this.refused.get(by) ?? { written: 0, leftOut: 0, last: entry };
    this.refused.set(by, refused);
    this.makeRoom();
    if (refused.written < mostRefusals) {
      refused.written += 1;
      await this.entries.add(entry, 1);
    } else {
      refused.leftOut += 1;
      refused.last = entry;
    }
  }

  /** Writes down how many were left out, and begins to count anew. */
  async execute(): Promise<void> {
    const all = [...this.refused.keys()];
    let failed: PromiseRejectedResult | undefined;
    // A part at a time, or there were no room for what is done meanwhile; what is left waits where the database does not answer.
    while (all.length > 0 && !failed) {
      const settled = await Promise.allSettled(all.splice(0, settledAtOnce).map((by) => this.settle(by)));
      failed ??= settled.find((it) => it.status === 'rejected');
    }
    if (failed) throw failed.reason;
  }

  /** By now nobody is answered any more. */
  override async beforeApplicationShutdown(): Promise<void> {
    await super.beforeApplicationShutdown();
    await this.execute().catch((error: unknown) => {
      this.logger.error(`how often callers were refused could not be written down (${String(error)})`);
    });
  }

  /** Whoever comes does not wait for what others were refused, and is not told that it could not be written down. */
  private makeRoom(): void {
    if (this.refused.size <= mostRefused) return;
    const [longest] = this.refused.keys();
    void this.settle(longest!).catch((error: unknown) => {
      this.logger.warn(`how often callers were refused is written down later (${String(error)})`);
    });
  }

  private async settle(by: string): Promise<void> {
    const { leftOut = 0, last } = this.refused.get(by) ?? {};
    this.refused.delete(by);
    if (leftOut === 0 || !last) return;
    try {
      await this.entries.add(last, leftOut);
    } catch (error) {
      const since = this.refused.get(by);
      if (!since && this.refused.size >= mostRefused) {
        const { tenant, account, operation, request_id } = last;
        const lost = { tenant, account, operation, requests: leftOut, last: request_id };
        this.logger.error(
          `it is not written down what callers were refused: ${JSON.stringify(lost)} (${String(error)})`,
        );
        return;
      }
      this.refused.set(by, {
        ...{ written: mostRefusals, last: since?.last ?? last },
        leftOut: leftOut + (since?.leftOut ?? 0),
      });
      throw error;
    }
  }
}
