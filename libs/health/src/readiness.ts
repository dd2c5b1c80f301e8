import { setTimeout } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { keptFor } from '#periodic';

/** What a check tells of a thing that can be used. */
export interface Condition {
  /** It can be used, but somebody should look at it. */
  isDegraded: boolean;
  /** For callers to see. */
  details: Record<string, unknown>;
}

export const states = ['up', 'degraded', 'down'] as const;
export type State = (typeof states)[number];

export type Check = () => Promise<Condition | void>;

/** What a process passes requests on to. */
export interface Behind {
  states: ReadonlyMap<string, State>;
  /** Whether enough of it can be used. */
  canServe: boolean;
}

/** How long all that is asked may take to answer, in milliseconds. */
export const checkWithinMs = 2_000;

/** How long what a check has told is told again: whoever asks often does not have the database asked as often. */
const keepMs = 1_000;

/** What a module needs in order to serve. Modules add their own checks; `/health/ready` asks them all. */
@Injectable()
export class Readiness {
  private readonly registered = new Map<string, Check>();
  private readonly listeners: (() => void)[] = [];
  private readBehind: () => Promise<Behind> = () => Promise.resolve({ states: new Map(), canServe: true });
  private closing = false;

  /** @param check resolves when the thing can be used; what it rejects with is logged, never shown to callers */
  add(name: string, check: Check): void {
    if (this.registered.has(name)) throw new Error(`There is a readiness check called ${name} already.`);
    this.registered.set(name, keptFor(keepMs, checkWithinMs, check));
  }

  /** Has what is behind the process told of as well; it is no check, as the process can serve while some of it is down. */
  watchBehind(read: () => Promise<Behind>): void {
    this.readBehind = keptFor(keepMs, checkWithinMs, read);
  }

  behind(): Promise<Behind> {
    return this.readBehind();
  }

  get checks(): ReadonlyMap<string, Check> {
    return this.registered;
  }

  get shuttingDown(): boolean {
    return this.closing;
  }

  /** Whether everything that is needed can be used; false as well when that cannot be told in time. */
  async canServe(): Promise<boolean> {
    const states = await this.states();
    return !this.closing && [...states.values()].every((it) => it !== 'down');
  }

  /** What is needed, by name; down as well what cannot be told in time. */
  async states(): Promise<ReadonlyMap<string, State>> {
    const ended = new AbortController();
    const late = setTimeout(checkWithinMs, 'down' as const, { signal: ended.signal }).catch(() => 'down' as const);
    const asked = [...this.checks].map(async ([name, check]): Promise<[string, State]> => {
      // Why is told by the log, when the health is asked for.
      const state = (async () => ((await check())?.isDegraded ? 'degraded' : 'up'))().catch(() => 'down' as const);
      return [name, await Promise.race([state, late])];
    });
    const states = await Promise.all(asked);
    ended.abort();
    return new Map(states);
  }

  whenShuttingDown(listener: () => void): void {
    this.listeners.push(listener);
  }

  /** From now on the process is not ready, however well it does. */
  shutDown(): void {
    this.closing = true;
    for (const listener of this.listeners) listener();
  }
}
