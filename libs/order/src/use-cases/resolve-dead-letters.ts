import { Injectable } from '@nestjs/common';
import { CleaveError, cutPage, type DeadLetterDocument, type Page } from '#contracts';
import { RunSagas } from './run-sagas.js';

export type DeadLetter = DeadLetterDocument;

/** Sagas that wait for a person to decide. */
export abstract class ParkedSagas {
  /** At most `limit`, ordered by id, after `after`. */
  abstract parked(tenant: string, after: string | undefined, limit: number): Promise<DeadLetter[]>;
  /** @returns whether it was parked */
  abstract retry(tenant: string, sagaId: string): Promise<boolean>;
  abstract close(tenant: string, sagaId: string, note: string): Promise<boolean>;
  /** Whether it is still being tried. */
  abstract isRunning(tenant: string, sagaId: string): Promise<boolean>;
}

/** Lets a person retry or close sagas that do not end by themselves. */
@Injectable()
export class ResolveDeadLetters {
  constructor(
    private readonly sagas: ParkedSagas,
    private readonly running: RunSagas,
  ) {}

  async list(tenant: string, after: string | undefined, limit: number): Promise<Page<DeadLetter>> {
    return cutPage(await this.sagas.parked(tenant, after, limit + 1), limit, (it) => it.saga_id);
  }

  /** Retries it, under a new operation id if it was refused for good: that may be possible by now. */
  async retry(tenant: string, sagaId: string): Promise<void> {
    if (!(await this.sagas.retry(tenant, sagaId))) throw notFound();
    this.running.wake();
  }

  /** Closes a saga that was dealt with elsewhere. Only if its outcome is decided, so that nothing is done twice. */
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
