/**
 * Who waits for an answer, by its id. V8 copies a Map that grows or shrinks into a new table, and an old table that has not
 * been collected yet keeps all that come after it. So it is an entry that they keep, of which nothing is left once it is over:
 * otherwise the garbage of each call, its content included, stays until all of memory is searched.
 */
export class Awaited<Waiting> {
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

  /** Undefined where nobody waits any more. Who takes it lets go of it. */
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
