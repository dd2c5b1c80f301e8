import type { MigrationInterface, QueryRunner } from 'typeorm';
import { reserve } from './1-products-and-stock.js';

/**
 * Replaces the function by today's version. Before, a refusal did not tell whether stock was held by an earlier try, whose
 * order may be recorded after the refusal was answered.
 */
export class RefusedWhileHeld1764000000051 implements MigrationInterface {
  readonly name = 'RefusedWhileHeld1764000000051';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(reserve);
  }

  /** The previous version works with it as well. */
  async down(): Promise<void> {}
}
