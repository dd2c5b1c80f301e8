import { Injectable } from '@nestjs/common';
import { CleaveError, type DeadLetterDocument } from '#contracts';
import { RunSagas } from './run-sagas.js';

export type DeadLetter = DeadLetterDocument;

/** Sagas that wait for a person. */
export abstract class ParkedSagas {
  /** At most `limit`, by id, those behind `after`. */
  abstract parked(tenant: string, after: string | undefined, limit: number): Promise<DeadLetter[]>;
  /** @returns whether it was parked */
  abstract retry(tenant: string, sagaId: string): Promise<boolean>;
  abstract close(tenant: string, sagaId: string, note: string): Promise<boolean>;
  /** Whether it is still being tried. */
  abstract isRunning(tenant: string, sagaId: string): Promise<boolean>;
}

/** Lets a person decide about what does not come to its end by itself. */
@Injectable()
export class ResolveDeadLetters {
  constructor(
    private readonly sagas: ParkedSagas,
    private readonly running: RunSagas,
  ) {}

  async list(
    tenant: string,
    after: string | undefined,
    limit: number,
  ): Promise<{ data: DeadLetter[]; last: string | null }> {
    const found = await this.sagas.parked(tenant, after, limit + 1);
    const data = found.slice(0, limit);
    return { data, last: found.length > limit ? (data.at(-1)?.saga_id ?? null) : null };
  }

  /** Tries it anew, under a new name: what was refused for good may be possible by now. */
  async retry(tenant: string, sagaId: string): Promise<void> {
    if (!(await this.sagas.retry(tenant, sagaId))) throw notFound();
    this.running.wake();
  }

  /** Closes it: what is to be done was done elsewhere. Only what is decided: nothing may be done twice. */
  async resolve(tenant: string, sagaId: string, note: string): Promise<void> {
    if (await this.sagas.close(tenant, sagaId, note)) return;
    if (!(await this.sagas.isRunning(tenant, sagaId))) throw notFound();
    throw new CleaveError(
      'illegal-transition',
      'It is still being retried, and the money may be moved after all. Close it once the outcome is known.',
    );
  }
}

const notFound = (): CleaveError =>
  new CleaveError(
    'dead-letter-not-found',
    'There is no dead letter with this id. It may have been retried or closed already.',
  );
