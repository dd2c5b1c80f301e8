import { Injectable } from '@nestjs/common';
import { PeriodicJob } from '#periodic';
import type { AuditLog, NewAuditEntry } from '#security';

export abstract class AuditEntries {
  /** Resolves once the entry is durable. @param requests how many it stands for; it describes the last of them */
  abstract add(entry: NewAuditEntry, requests: number): Promise<void>;
  /** The same for the end of an operation whose beginning is recorded: it does not wait behind other entries. */
  abstract addEnd(entry: NewAuditEntry): Promise<void>;
}

const minuteMs = 60_000;
/** How many refusals of a caller get an entry of their own in a minute, for each operation. */
const mostRefusals = 10;
/** How many callers and operations are counted at a time. Beyond that, the longest counted one is written. */
export const mostRefused = 10_000;
const settledAtOnce = 200;

interface Refused {
  written: number;
  /** How many refusals are counted but not written yet, and the last of them. */
  leftOut: number;
  last: NewAuditEntry;
}

/**
 * Writes the audit log. Callers without permission can be refused without end, and nothing is ever removed from the log.
 * So a few of their refusals in a minute get an entry each, and one more entry says how many others there were.
 */
@Injectable()
export class KeepAudit extends PeriodicJob implements AuditLog {
  private readonly refused = new Map<string, Refused>();

  constructor(private readonly entries: AuditEntries) {
    super(minuteMs, 'counts of refused requests could not be written to the audit log; trying again in a minute');
  }

  append(entry: NewAuditEntry): Promise<void> {
    return entry.status === null ? this.entries.add(entry, 1) : this.entries.addEnd(entry);
  }

  async appendRefusal(entry: NewAuditEntry, who: string): Promise<void> {
    // Each operation is counted separately, so that a refusal cannot be hidden behind many of another operation.
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

  /** Writes how many refusals got no entry of their own, and starts counting anew. */
  async execute(): Promise<void> {
    const all = [...this.refused.keys()];
    let failed: PromiseRejectedResult | undefined;
    // In portions, to leave room for entries that arrive meanwhile. If the database does not answer, the rest waits.
    while (all.length > 0 && !failed) {
      const settled = await Promise.allSettled(all.splice(0, settledAtOnce).map((by) => this.settle(by)));
      failed ??= settled.find((it) => it.status === 'rejected');
    }
    if (failed) throw failed.reason;
  }

  /** By now, all requests have been answered. */
  override async beforeApplicationShutdown(): Promise<void> {
    await super.beforeApplicationShutdown();
    await this.execute().catch((error: unknown) => {
      this.logger.error(`counts of refused requests could not be written to the audit log (${String(error)})`);
    });
  }

  /** A caller neither waits for the entry about another caller's refusals nor learns that it could not be written. */
  private makeRoom(): void {
    if (this.refused.size <= mostRefused) return;
    const [longest] = this.refused.keys();
    void this.settle(longest!).catch((error: unknown) => {
      this.logger.warn(
        `a count of refused requests could not be written to the audit log; trying again later (${String(error)})`,
      );
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
          `refused requests are missing from the audit log: ${JSON.stringify(lost)} (${String(error)})`,
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
