import type { MigrationInterface, QueryRunner } from 'typeorm';
import { begin } from './1-payments.js';

/**
 * The function as it is made today, where it was made before: a capture of all there is that had to wait set aside what it
 * would take, found nothing left when its turn came, and was told as done.
 */
export class NothingAside1764000000050 implements MigrationInterface {
  readonly name = 'NothingAside1764000000050';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(begin);
  }

  /** The version before works with it as well. */
  async down(): Promise<void> {}
}
