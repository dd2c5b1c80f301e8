import { Injectable } from '@nestjs/common';
import { cachedFor, within } from '#periodic';

/** The result of a check of a dependency that can be used. */
export interface Condition {
  /** It can be used, but somebody should look at it. */
  isDegraded: boolean;
  /** Shown to callers. */
  details: Record<string, unknown>;
}

export const states = ['up', 'degraded', 'down'] as const;
export type State = (typeof states)[number];

export type Check = () => Promise<Condition | void>;

/** The state of the services that a process forwards requests to. */
export interface UpstreamStates {
  states: ReadonlyMap<string, State>;
  /** Whether enough of them can be used. */
  canServe: boolean;
}

/** How long all checks together may take, in milliseconds. */
export const checkWithinMs = 2_000;

/**
 * How long the result of a check is cached, in milliseconds, so that frequent probes do not query the database as often.
 */
const keepMs = 1_000;

/**
 * The dependencies that the modules need in order to serve. Modules add their own checks; `/health/ready` runs them all.
 */
@Injectable()
export class Readiness {
  private readonly registered = new Map<string, Check>();
  private readonly listeners: (() => void)[] = [];
  private readUpstreams: () => Promise<UpstreamStates> = () => Promise.resolve({ states: new Map(), canServe: true });
  private closing = false;

  /**
   * @param check resolves if the dependency can be used. Its error is logged; callers see only the detail of a
   *   `CleaveError`
   */
  add(name: string, check: Check): void {
    if (this.registered.has(name)) throw new Error(`There is a readiness check called ${name} already.`);
    this.registered.set(name, cachedFor(keepMs, checkWithinMs, check));
  }

  /**
   * Also reports the services behind the process. They are not a check, because the process can serve while some of them
   * are down.
   */
  watchUpstreams(read: () => Promise<UpstreamStates>): void {
    this.readUpstreams = cachedFor(keepMs, checkWithinMs, read);
  }

  upstreams(): Promise<UpstreamStates> {
    return this.readUpstreams();
  }

  get checks(): ReadonlyMap<string, Check> {
    return this.registered;
  }

  get shuttingDown(): boolean {
    return this.closing;
  }

  /** Whether all dependencies can be used; false if a check takes too long. */
  async canServe(): Promise<boolean> {
    const states = await this.states();
    return !this.closing && [...states.values()].every((it) => it !== 'down');
  }

  /** The state of each dependency by name; `down` if a check takes too long. */
  async states(): Promise<ReadonlyMap<string, State>> {
    const stateOf = async (check: Check): Promise<State> => {
      try {
        return (await within(checkWithinMs, check()))?.isDegraded ? 'degraded' : 'up';
      } catch {
        // The reason is logged when the health is probed.
        return 'down';
      }
    };
    const asked = [...this.checks].map(async ([name, check]) => [name, await stateOf(check)] as const);
    return new Map(await Promise.all(asked));
  }

  whenShuttingDown(listener: () => void): void {
    this.listeners.push(listener);
  }

  /** From now on the process is not ready, whatever its checks report. */
  shutDown(): void {
    this.closing = true;
    for (const listener of this.listeners) listener();
  }
}
