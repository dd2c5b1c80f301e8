import { Injectable } from '@nestjs/common';

/** What a module needs in order to serve. Modules add their own checks; `/health/ready` asks them all. */
@Injectable()
export class Readiness {
  private readonly registered = new Map<string, () => Promise<void>>();
  private closing = false;

  /** @param check resolves when the thing can be used; what it rejects with is logged, never shown to callers */
  add(name: string, check: () => Promise<void>): void {
    if (this.registered.has(name)) throw new Error(`There is a readiness check called ${name} already.`);
    this.registered.set(name, check);
  }

  get checks(): ReadonlyMap<string, () => Promise<void>> {
    return this.registered;
  }

  get shuttingDown(): boolean {
    return this.closing;
  }

  /** From now on the process is not ready, however well it does. */
  shutDown(): void {
    this.closing = true;
  }
}
