/**
 * Limits how much is sent at a time, to one endpoint and in all: an endpoint that hangs takes up its own slots only. An
 * endpoint that struggles has a single slot, so that many that hang do not take up all of them. A tenant may have at most as
 * many slots as it leaves to others.
 */
export class Slots {
  private readonly taken = new Map<string, number>();
  private readonly ofTenants = new Map<string, number>();
  private readonly struggling = new Set<string>();
  private total = 0;

  constructor(
    private readonly ofOne: number,
    private readonly ofAll: number,
  ) {}

  get free(): number {
    return this.ofAll - this.total;
  }

  /** The free slots of endpoints that have fewer than usual. */
  get exceptions(): ReadonlyMap<string, number> {
    const known = [...this.taken.keys(), ...this.struggling];
    return new Map(known.map((it) => [it, Math.max(0, this.widthOf(it) - (this.taken.get(it) ?? 0))]));
  }

  /** How many slots a tenant may take that has none yet. */
  get ofTenant(): number {
    return Math.ceil(this.free / 2);
  }

  /** How many more slots each tenant may take that has some. */
  get tenants(): ReadonlyMap<string, number> {
    return new Map([...this.ofTenants].map(([it, taken]) => [it, Math.max(0, Math.ceil((this.free - taken) / 2))]));
  }

  take(tenant: string, endpointId: string): void {
    this.total += 1;
    change(this.ofTenants, tenant, 1);
    change(this.taken, endpointId, 1);
  }

  giveBack(tenant: string, endpointId: string, isStruggling: boolean): void {
    this.total -= 1;
    change(this.ofTenants, tenant, -1);
    change(this.taken, endpointId, -1);
    this.struggling.delete(endpointId);
    if (!isStruggling) return;
    this.struggling.add(endpointId);
    // Endpoints that struggled longest ago may have recovered.
    if (this.struggling.size > this.ofAll) this.struggling.delete(this.struggling.keys().next().value!);
  }

  private widthOf(endpointId: string): number {
    return this.struggling.has(endpointId) ? 1 : this.ofOne;
  }
}

const change = (counts: Map<string, number>, of: string, by: 1 | -1): void => {
  const count = (counts.get(of) ?? 0) + by;
  if (count > 0) counts.set(of, count);
  else counts.delete(of);
};
