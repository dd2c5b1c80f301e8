/**
 * Pending requests by id. When a Map grows or shrinks, V8 copies it into a new table, and an old table that has not been
 * collected yet keeps the newer ones alive. The Map therefore holds small entries that are emptied when a request is over:
 * otherwise the garbage of each call, its content included, would stay until a full garbage collection.
 */
export class PendingRequests<Waiting> {
  private readonly entries = new Map<string, { waiting: Waiting | undefined }>();

  get size(): number {
    return this.entries.size;
  }

  has(id: string): boolean {
    return this.entries.has(id);
  }

  add(id: string, waiting: Waiting): void {
    this.entries.set(id, { waiting });
  }

  /** Removes the pending request and empties its entry. Undefined if it is not pending any more. */
  take(id: string): Waiting | undefined {
    const entry = this.entries.get(id);
    if (!entry) return undefined;
    this.entries.delete(id);
    const { waiting } = entry;
    entry.waiting = undefined;
    return waiting;
  }

  takeAll(): Waiting[] {
    return [...this.entries.keys()].flatMap((id) => this.take(id) ?? []);
  }
}
