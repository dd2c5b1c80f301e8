/**
 * How much may be sent at a time, to one endpoint and to all: an endpoint that hangs takes up its own slots and nobody
 * else's. One that struggles has a single slot, so that many that hang do not take up all of them.
 */
export class Slots {
  private readonly taken = new Map<string, number>();
  private readonly struggling = new Set<string>();
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
    const known = [...this.taken.keys(), ...this.struggling];
    return new Map(known.map((it) => [it, Math.max(0, this.widthOf(it) - (this.taken.get(it) ?? 0))]));
  }

  take(endpointId: string): void {
    this.total += 1;
    this.taken.set(endpointId, (this.taken.get(endpointId) ?? 0) + 1);
  }

  giveBack(endpointId: string, isStruggling: boolean): void {
    this.total -= 1;
    const left = (this.taken.get(endpointId) ?? 0) - 1;
    if (left > 0) this.taken.set(endpointId, left);
    else this.taken.delete(endpointId);
    this.struggling.delete(endpointId);
    if (!isStruggling) return;
    this.struggling.add(endpointId);
    // Those that have struggled longest ago may have recovered.
    if (this.struggling.size > this.ofAll) this.struggling.delete(this.struggling.keys().next().value!);
  }

  private widthOf(endpointId: string): number {
    return this.struggling.has(endpointId) ? 1 : this.ofOne;
  }
}
