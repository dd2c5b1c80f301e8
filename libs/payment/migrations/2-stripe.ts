import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Stripe's id of a payment, without which Stripe could not be asked for anything else. */
export class Stripe1764000000004 implements MigrationInterface {
  readonly name = 'Stripe1764000000004';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE payment.payments ADD COLUMN stripe_intent_id text COLLATE "C"`);
    await runner.query(`
      CREATE INDEX payments_by_stripe_intent ON payment.payments (stripe_intent_id) WHERE stripe_intent_id IS NOT NULL`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`ALTER TABLE payment.payments DROP COLUMN stripe_intent_id`);
  }
}
