/** A value in the cache. It says itself where it belongs, and no two are the same. */
export interface Value {
  space: string;
  key: string;
  id: number;
}

interface Birth {
  space: string;
  key: string;
  tags: readonly string[];
  /** Milliseconds; infinite for no end. */
  ttl: number;
  grace: number;
  /** An invalidation that begins after this makes the value old: the begin of its load, or the end of its write. */
  oldSince: number;
  /** Its time to live has begun by then. */
  livesSince: number;
}

/** What makes older values old: a write, a delete, or an invalidation, which was acknowledged. */
interface Change {
  /** The call. */
  how: string;
  space: string;
  /** One key, one tag, or everything in the namespace. */
  of: { key: string } | { tag: string } | 'all';
  node: number;
  startedAt: number;
  endedAt: number;
}

interface Counting {
  space: string;
  startedAt: number;
  endedAt: number;
}

interface Read {
  node: number;
  space: string;
  key: string;
  how: string;
  startedAt: number;
  tier?: 'l1' | 'l2' | undefined;
  version?: string | undefined;
  /** It may be over its time, but not over its grace. */
  mayBeOver?: boolean | undefined;
  /** It may be invalidated: the node did not hear from Redis. */
  mayBeOld?: boolean | undefined;
}

/** How far the clocks of two nodes may be apart, with room for a machine that is busy. */
const clockSlackMs = 300;

/** What happened to the caches of some nodes, checked against what they promise. Times are by `performance.now()`. */
export class History {
  private readonly births = new Map<number, Birth>();
  private readonly changes = new Map<string, Change[]>();
  /** The loads that found nothing in the source, by namespace and key. */
  private readonly absences = new Map<string, Birth[]>();
  private readonly versions = new Map<string, number | 'nothing'>();
  /** The writes whose outcome is not known, and which may still arrive. */
  private readonly unknown = new Set<Birth>();
  private readonly countings: Counting[] = [];
  private ids = 0;
  readonly violations: string[] = [];
  checked = 0;

  /** @param boundMs how long another process may serve what was invalidated */
  constructor(private readonly boundMs: number) {}

  /** A new value of a write or a load that begins now. Until `written`, it may arrive at any time. */
  value(space: string, key: string, { tags = [], ttl, grace = 0 }: Lasting): Value {
    const id = (this.ids += 1);
    const birth = { space, key, tags, ttl, grace, oldSince: Infinity, livesSince: Infinity };
    this.births.set(id, birth);
    return { space, key, id };
  }

  /** The load of a value began at `beganAt` and ends now. */
  loaded({ id }: Value, beganAt: number): void {
    const birth = this.births.get(id)!;
    birth.oldSince = beganAt;
    birth.livesSince = performance.now();
  }

  /** The value of a lease that was taken before `beganAt` is written now. */
  filled(value: Value, beganAt: number, change: Omit<Change, 'endedAt' | 'of' | 'space'>, version: string): void {
    const { space, key, id } = value;
    this.loaded(value, beganAt);
    const late = this.madeOld(this.births.get(id)!, (it) => 'key' in Object(it.of) && it.endedAt < change.startedAt);
    if (late)
      this.violations.push(`${describe(value)} was filled, loaded at ${beganAt.toFixed(1)}, after ${told(late)}`);
    this.versionIs(version, id);
    // Not since the write itself began, which would make this value old as well.
    this.changed({ ...change, startedAt: beganAt, space, of: { key } });
  }

  /** The source has had nothing since `beganAt`. */
  absent(space: string, key: string, { tags = [], ttl }: Lasting, beganAt: number): void {
    const birth = { space, key, tags, ttl, grace: 0, oldSince: beganAt, livesSince: performance.now() };
    this.absences.set(placeOf(space, key), [...(this.absences.get(placeOf(space, key)) ?? []), birth]);
  }

  /** The value was written, as was acknowledged now. */
  written({ space, key, id }: Value, change: Omit<Change, 'endedAt' | 'of' | 'space'>, version: string): void {
    const birth = this.births.get(id)!;
    birth.oldSince = performance.now();
    birth.livesSince = performance.now();
    this.versionIs(version, id);
    this.changed({ ...change, space, of: { key } });
  }

  /** It is not known whether the value was written. */
  perhapsWritten({ id }: Value): void {
    this.unknown.add(this.births.get(id)!);
    this.births.get(id)!.livesSince = performance.now();
  }

  /** From now on nothing is on its way any more. */
  settle(): void {
    for (const birth of this.unknown) birth.oldSince = performance.now();
    this.unknown.clear();
  }

  /** A change is acknowledged now. */
  changed(change: Omit<Change, 'endedAt'>): void {
    const all = this.changes.get(change.space) ?? [];
    all.push({ ...change, endedAt: performance.now() });
    this.changes.set(change.space, all);
  }

  /** A counter of the namespace is increased by one from now on. */
  counting(counting: Counting): void {
    this.countings.push(counting);
  }

  /** It was increased to this. Clearing the namespace begins it anew. */
  counted(counting: Counting, count: number): void {
    counting.endedAt = performance.now();
    const { space, startedAt } = counting;
    const cleared = this.changes.get(space)?.findLast((it) => it.of === 'all' && it.endedAt < startedAt);
    const most = this.countings.filter((it) => it.space === space && it.endedAt > (cleared?.startedAt ?? 0)).length;
    if (count > most)
      this.violations.push(
        `a counter of ${space} was ${count}, not at most ${most}, after ${cleared && told(cleared)}`,
      );
  }

  /** @param value `undefined` if the source is said to have none */
  read(read: Read, value: Value | undefined): void {
    this.checked += 1;
    const { space, key, version, how, node, tier } = read;
    if (version !== undefined) this.versionIs(version, value?.id ?? 'nothing');
    const fault = value === undefined ? this.faultOfNothing(read) : this.faultOf(read, value);
    const where = tier ? ` from ${tier}` : '';
    if (fault)
      this.violations.push(`${how} of ${space} ${key} at node ${node}${where} gave ${describe(value)}: ${fault}`);
  }

  private faultOf(read: Read, value: Value): string | undefined {
    const birth = this.births.get(value.id);
    if (!birth || value.space !== read.space || value.key !== read.key) return 'it belongs to another key';
    return this.faultOfBirth(read, birth);
  }

  private faultOfNothing(read: Read): string | undefined {
    let fault: string | undefined = 'the source has always had something';
    for (const load of (this.absences.get(placeOf(read.space, read.key)) ?? []).toReversed()) {
      fault = this.faultOfBirth(read, load);
      if (!fault) break;
    }
    return fault;
  }

  private faultOfBirth(read: Read, birth: Birth): string | undefined {
    const { startedAt, mayBeOver, mayBeOld, node, tier } = read;
    const over = startedAt - birth.livesSince - birth.ttl - (mayBeOver ? birth.grace : 0) - clockSlackMs;
    if (over > 0) return `it had been over for ${Math.round(over)} ms and more`;
    if (mayBeOld) return undefined;
    const old = this.madeOld(birth, (it) => {
      const isImmediate = it.node === node || (tier === 'l2' && 'key' in Object(it.of));
      return it.endedAt + (isImmediate ? 0 : this.boundMs) < startedAt;
    });
    return old && `it began at ${birth.oldSince.toFixed(1)}, the read at ${startedAt.toFixed(1)}, after ${told(old)}`;
  }

  /** The last change that made it old, of those that count. */
  private madeOld({ space, key, tags, oldSince }: Birth, counts: (change: Change) => boolean): Change | undefined {
    const changes = this.changes.get(space) ?? [];
    // They are in the order of their ends.
    for (let at = changes.length - 1; at >= 0 && changes[at]!.endedAt > oldSince; at -= 1) {
      const it = changes[at]!;
      const isOfIt = it.of === 'all' || ('key' in it.of ? it.of.key === key : tags.includes(it.of.tag));
      if (isOfIt && it.startedAt > oldSince && counts(it)) return it;
    }
    return undefined;
  }

  private versionIs(version: string, id: number | 'nothing'): void {
    const known = this.versions.get(version);
    if (known !== undefined && known !== id)
      this.violations.push(`two values have the version ${version}: ${known} and ${id}`);
    this.versions.set(version, id);
  }
}

export interface Lasting {
  tags?: readonly string[];
  ttl: number;
  grace?: number;
}

const placeOf = (space: string, key: string): string => JSON.stringify([space, key]);
const describe = (value: Value | undefined): string => (value ? JSON.stringify(value) : 'nothing');
const told = ({ how, of, node, startedAt, endedAt }: Change): string =>
  `${how} of ${JSON.stringify(of)} at node ${node} from ${startedAt.toFixed(1)} to ${endedAt.toFixed(1)}`;
