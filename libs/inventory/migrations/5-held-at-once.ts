import type { MigrationInterface, QueryRunner } from 'typeorm';
import { planning, reserveParameters } from './1-products-and-stock.js';

/** Batches that need no decision are held by two statements. The previous version goes on calling `reserve`. */
export class HeldAtOnce1764000000052 implements MigrationInterface {
  readonly name = 'HeldAtOnce1764000000052';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(hold);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`DROP FUNCTION inventory.hold`);
  }
}

/**
 * Decides like `reserve`, but first tries to hold the whole batch: if no reservation exists yet, everything fits, and no
 * order mixes currencies or has a range for its total. Then `outcomes`, `details` and `orders` are null. Otherwise the block
 * is rolled back with its locks, and `reserve` decides.
 *
 * Locks are taken in the same order as there: whatever the join, the products are updated in the order of their ids, because
 * both of its sides are sorted by them, and too small to be joined in parts. The stock is compared on the locked row.
 */
const hold = `
  CREATE OR REPLACE FUNCTION inventory.hold(
    ${reserveParameters}
  ) LANGUAGE plpgsql ${planning} SET enable_bitmapscan = off AS $$
  BEGIN
    IF array_remove(p_at_least, NULL) = '{}' AND array_remove(p_at_most, NULL) = '{}' THEN
      BEGIN
        INSERT INTO inventory.reservations (tenant_id, reservation_id, order_id, state, held, deadline_at)
        SELECT p_tenant, r.id, r.order_id, 'held', r.held, now() + p_hold_ms * interval '1 millisecond'
        FROM unnest(p_reservations, p_orders, p_held) AS r(id, order_id, held)
        ORDER BY r.id;

        WITH taken AS (
          UPDATE inventory.products p SET reserved = p.reserved + w.units
          FROM (
            SELECT * FROM unnest(p_products, p_wanted) WITH ORDINALITY AS w(product_id, units, position)
            ORDER BY product_id COLLATE "C"
          ) w
          WHERE p.tenant_id = p_tenant AND p.product_id = ANY (p_products) AND p.product_id = w.product_id
            AND w.units <= p.on_hand - p.reserved
          RETURNING w.position, p.name, p.unit_price_minor, p.currency
        )
        SELECT array_agg(t.name ORDER BY t.position), array_agg(t.unit_price_minor ORDER BY t.position),
               array_agg(t.currency ORDER BY t.position)
        INTO names, prices, currencies FROM taken t;

        IF cardinality(names) = cardinality(p_products) AND (currencies[1] = ALL (currencies) OR NOT EXISTS (
          SELECT FROM unnest(p_line_reservation, p_line_product) AS l(reservation, product)
          GROUP BY l.reservation HAVING min(currencies[l.product]) <> max(currencies[l.product])
        )) THEN RETURN; END IF;
        RAISE EXCEPTION 'the batch needs decisions' USING ERRCODE = 'CL002';
      EXCEPTION WHEN unique_violation OR SQLSTATE 'CL002' THEN
        NULL;
      END;
    END IF;

    SELECT r.* INTO outcomes, details, orders, names, prices, currencies
    FROM inventory.reserve(p_tenant, p_reservations, p_orders, p_held, p_hold_ms, p_products, p_wanted,
      p_line_reservation, p_line_product, p_line_quantity, p_line_catalogue_quantity, p_own_priced_minor,
      p_at_least, p_at_most) r;
  END $$`;
