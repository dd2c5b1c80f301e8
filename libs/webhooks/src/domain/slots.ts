/**
 * How much may be sent at a time, to one endpoint and to all: an endpoint that hangs takes up its own slots and nobody
 * else's. One whose last attempt failed has a single slot, so that many that hang do not take up all of them.
 */
export class Slots {
  private readonly taken = new Map<string, number>();
  private readonly failing = new Set<string>();
  private total = 0;

  constructor(
    private readonly ofOne: number,
    private readonly ofAll: number,
  ) {}

  get free(): number {
    return this.ofAll - this.total;
  }

  /** Of the endpoints that have fewer free than usual, how many; never more than there are of all. */
  get exceptions(): ReadonlyMap<string, number> {
    const known = [...this.taken.keys(), ...this.failing];
    return new Map(known.map((it) => [it, Math.max(0, this.widthOf(it) - (this.taken.get(it) ?? 0))]));
  }

  take(endpointId: string): void {
    this.total += 1;
    this.taken.set(endpointId, (this.taken.get(endpointId) ?? 0) + 1);
  }

  giveBack(endpointId: string, isFailing: boolean): void {
    this.total -= 1;
    const left = (this.taken.get(endpointId) ?? 0) - 1;
    if (left > 0) this.taken.set(endpointId, left);
    else this.taken.delete(endpointId);
    this.failing.delete(endpointId);
    if (!isFailing) return;
    this.failing.add(endpointId);
    // Those that have failed longest ago may have recovered.
    if (this.failing.size > this.ofAll) this.failing.delete(this.failing.keys().next().value!);
  }

  private widthOf(endpointId: string): number {
    return this.failing.has(endpointId) ? 1 : this.ofOne;
  }
}
