import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Products with their stock, reservations, and the ledger of stock moves.
 *
 * Every decision about stock is taken inside the database by one function call, so that no row lock ever waits for an
 * event loop. All of them lock reservations in the order of their ids first, then products in the order of theirs.
 */
export class ProductsAndStock1764000000001 implements MigrationInterface {
  readonly name = 'ProductsAndStock1764000000001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE inventory.products (
        tenant_id text COLLATE "C" NOT NULL,
        product_id text COLLATE "C" NOT NULL,
        name text NOT NULL,
        unit_price_minor bigint NOT NULL CHECK (unit_price_minor >= 0),
        currency text COLLATE "C" NOT NULL,
        on_hand bigint NOT NULL DEFAULT 0,
        reserved bigint NOT NULL DEFAULT 0,
        sold bigint NOT NULL DEFAULT 0,
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        updated_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, product_id),
        -- The last guard against overselling, whatever the code above it does.
        CONSTRAINT stock_is_never_oversold CHECK (0 <= reserved AND reserved <= on_hand)
      ) WITH (fillfactor = 60)`);
    await runner.query(`
      CREATE TABLE inventory.reservations (
        tenant_id text COLLATE "C" NOT NULL,
        reservation_id uuid NOT NULL,
        state text COLLATE "C" NOT NULL CHECK (state IN ('held', 'confirmed', 'fulfilled', 'released', 'refused')),
        -- Product id to units still held; empty once nothing is.
        held jsonb NOT NULL,
        -- What was missing, of a refusal.
        shortages jsonb,
        deadline_at timestamptz(3) NOT NULL,
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, reservation_id)
      )`);
    await runner.query(`
      CREATE TABLE inventory.stock_moves (
        move_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant_id text COLLATE "C" NOT NULL,
        product_id text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL CHECK (kind IN ('counted', 'adjusted', 'fulfilled', 'returned')),
        delta bigint NOT NULL,
        reason text,
        account_id text COLLATE "C",
        idempotency_key text COLLATE "C",
        -- The stock after a keyed adjustment: the stored answer that a repeat gets.
        answer jsonb,
        effect_id text COLLATE "C",
        moved_at timestamptz(3) NOT NULL DEFAULT now(),
        FOREIGN KEY (tenant_id, product_id) REFERENCES inventory.products
      )`);
    await runner.query(`CREATE INDEX stock_moves_by_product ON inventory.stock_moves (tenant_id, product_id, move_id)`);
    await runner.query(`
      CREATE UNIQUE INDEX stock_moves_by_key ON inventory.stock_moves (tenant_id, account_id, idempotency_key)
      WHERE idempotency_key IS NOT NULL`);
    await runner.query(`
      CREATE TABLE inventory.applied_effects (
        tenant_id text COLLATE "C" NOT NULL,
        effect_id text COLLATE "C" NOT NULL,
        applied_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, effect_id)
      )`);
    await runner.query(`CREATE TABLE inventory.settings (name text PRIMARY KEY, value text NOT NULL)`);
    await runner.query(`
      INSERT INTO inventory.settings VALUES ('cursor_secret', gen_random_uuid()::text || gen_random_uuid()::text)`);
    await runner.query(reserve);
    await runner.query(settle);
    await runner.query(countStock);
    await runner.query(adjustStock);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const name of ['adjust_stock', 'count_stock', 'settle', 'reserve'])
      await runner.query(`DROP FUNCTION inventory.${name}`);
    for (const name of ['settings', 'applied_effects', 'stock_moves', 'reservations', 'products'])
      await runner.query(`DROP TABLE inventory.${name}`);
  }
}

/**
 * Decides a batch of reservations, each all-or-nothing, in the order given.
 *
 * The lines come summed by reservation and product, grouped by reservation; `p_line_reservation` and `p_line_product`
 * are positions (from 1) in `p_reservations` and `p_products`. The result has one outcome and, for a refusal, one
 * detail a reservation, and name, price and currency of each of `p_products` (null where there is no such product).
 *
 * A reservation that exists keeps its decision. When everything fits, one update takes the units of the whole batch;
 * when something does not, or a total has to be checked, the reservations are decided one by one on arrays.
 */
const reserve = `
  CREATE FUNCTION inventory.reserve(
    p_tenant text,
    p_reservations uuid[], p_held jsonb[], p_deadlines timestamptz[],
    p_products text[],
    p_line_reservation int[], p_line_product int[], p_line_quantity bigint[],
    -- Units of the line that go at the catalogue price, and what the others come to at prices set by the caller.
    p_line_catalogue_quantity bigint[], p_own_priced_minor bigint[],
    -- The range that the sum of a reservation's lines has to fall into; null elements for no limit.
    p_at_least bigint[], p_at_most bigint[],
    OUT outcomes text[], OUT details jsonb[], OUT names text[], OUT prices bigint[], OUT currencies text[]
  ) LANGUAGE plpgsql AS $$
  DECLARE
    reservation_count int := cardinality(p_reservations);
    product_count int := cardinality(p_products);
    line_count int := cardinality(p_line_reservation);
    fresh uuid[];
    available bigint[];
    taken bigint[];
    everything_fits boolean;
    first_line int;
    line int;
    product int;
    unknown jsonb;
    missing jsonb;
    seen_currencies text[];
    total numeric;
    refused uuid[] := '{}';
    refused_for jsonb[] := '{}';
    forgotten uuid[] := '{}';
  BEGIN
    outcomes := array_fill(NULL::text, ARRAY[reservation_count]);
    details := array_fill(NULL::jsonb, ARRAY[reservation_count]);

    WITH inserted AS (
      INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
      SELECT p_tenant, r.id, 'held', r.held, r.deadline
      FROM unnest(p_reservations, p_held, p_deadlines) AS r(id, held, deadline)
      ORDER BY r.id
      ON CONFLICT DO NOTHING
      RETURNING reservation_id
    ) SELECT coalesce(array_agg(reservation_id), '{}') INTO fresh FROM inserted;

    IF cardinality(fresh) < reservation_count THEN
      -- The decisions taken earlier, in the order of the batch; fresh ones stay null.
      SELECT array_agg(CASE WHEN e.reservation_id = ANY (fresh) THEN NULL
                            WHEN e.state = 'refused' THEN 'out-of-stock'
                            WHEN e.state = 'released' THEN 'released'
                            ELSE 'held' END ORDER BY r.position),
             array_agg(CASE WHEN e.state = 'refused' THEN e.shortages END ORDER BY r.position)
      INTO outcomes, details
      FROM unnest(p_reservations) WITH ORDINALITY AS r(id, position)
      JOIN inventory.reservations e ON e.tenant_id = p_tenant AND e.reservation_id = r.id;
    END IF;

    SELECT array_agg(l.name ORDER BY w.position), array_agg(l.unit_price_minor ORDER BY w.position),
           array_agg(l.currency ORDER BY w.position), array_agg(l.on_hand - l.reserved ORDER BY w.position)
    INTO names, prices, currencies, available
    FROM unnest(p_products) WITH ORDINALITY AS w(product_id, position)
    LEFT JOIN (
      SELECT p.* FROM inventory.products p
      WHERE p.tenant_id = p_tenant AND p.product_id = ANY (p_products)
      ORDER BY p.product_id
      FOR NO KEY UPDATE
    ) l USING (product_id);

    SELECT array_agg(coalesce(d.units, 0) ORDER BY w.position) INTO taken
    FROM generate_series(1, product_count) AS w(position)
    LEFT JOIN (
      SELECT l.product, sum(l.quantity)::bigint AS units
      FROM unnest(p_line_reservation, p_line_product, p_line_quantity) AS l(reservation, product, quantity)
      WHERE outcomes[l.reservation] IS NULL
      GROUP BY l.product
    ) d ON d.product = w.position;

    SELECT coalesce(bool_and(t.units <= a.units), false) INTO everything_fits
    FROM unnest(taken) WITH ORDINALITY AS t(units, position)
    JOIN unnest(available) WITH ORDINALITY AS a(units, position) USING (position);
    -- A null among the available marks an unknown product; more than one currency has to be looked at order by order.
    everything_fits := everything_fits
      AND array_position(available, NULL) IS NULL
      AND currencies[1] = ALL (currencies)
      AND array_remove(p_at_least, NULL) = '{}' AND array_remove(p_at_most, NULL) = '{}';

    IF everything_fits THEN
      outcomes := (SELECT array_agg(coalesce(o, 'held') ORDER BY position) FROM unnest(outcomes) WITH ORDINALITY AS x(o, position));
    ELSE
      taken := array_fill(0::bigint, ARRAY[product_count]);
      line := 1;
      FOR reservation IN 1..reservation_count LOOP
        first_line := line;
        unknown := '[]'; missing := '[]'; seen_currencies := '{}'; total := p_own_priced_minor[reservation];
        WHILE line <= line_count AND p_line_reservation[line] = reservation LOOP
          product := p_line_product[line];
          IF available[product] IS NULL THEN
            unknown := unknown || to_jsonb(p_products[product]);
          ELSE
            total := total + p_line_catalogue_quantity[line]::numeric * prices[product];
            IF NOT currencies[product] = ANY (seen_currencies) THEN
              seen_currencies := seen_currencies || currencies[product];
            END IF;
            IF p_line_quantity[line] > available[product] - taken[product] THEN
              missing := missing || jsonb_build_object('product_id', p_products[product],
                'requested', p_line_quantity[line], 'available', available[product] - taken[product]);
            END IF;
          END IF;
          line := line + 1;
        END LOOP;
        CONTINUE WHEN outcomes[reservation] IS NOT NULL;
        IF unknown <> '[]' THEN
          outcomes[reservation] := 'unknown-product'; details[reservation] := unknown;
          forgotten := forgotten || p_reservations[reservation];
        ELSIF cardinality(seen_currencies) > 1 THEN
          outcomes[reservation] := 'currency-mismatch'; details[reservation] := to_jsonb(seen_currencies);
          forgotten := forgotten || p_reservations[reservation];
        ELSIF total < p_at_least[reservation] OR total > p_at_most[reservation] THEN
          outcomes[reservation] := 'total-outside';
          details[reservation] := CASE WHEN abs(total) < 9007199254740992 THEN to_jsonb(total) ELSE 'null'::jsonb END;
          forgotten := forgotten || p_reservations[reservation];
        ELSIF missing <> '[]' THEN
          outcomes[reservation] := 'out-of-stock'; details[reservation] := missing;
          refused := refused || p_reservations[reservation]; refused_for := refused_for || missing;
        ELSE
          outcomes[reservation] := 'held';
          FOR i IN first_line..line - 1 LOOP
            taken[p_line_product[i]] := taken[p_line_product[i]] + p_line_quantity[i];
          END LOOP;
        END IF;
      END LOOP;
      UPDATE inventory.reservations r SET state = 'refused', held = '{}', shortages = x.shortages
      FROM unnest(refused, refused_for) AS x(id, shortages)
      WHERE r.tenant_id = p_tenant AND r.reservation_id = x.id;
      DELETE FROM inventory.reservations WHERE tenant_id = p_tenant AND reservation_id = ANY (forgotten);
    END IF;

    UPDATE inventory.products p SET reserved = p.reserved + t.units
    FROM unnest(p_products, taken) AS t(product_id, units)
    WHERE p.tenant_id = p_tenant AND p.product_id = t.product_id AND t.units > 0;
  END $$`;

/**
 * Applies what became of orders: \`confirm\` makes a hold permanent, \`release\` gives back what is still held, \`fulfil\`
 * takes units off the shelf, \`restock\` puts returned units back. An effect that was applied before is passed over.
 * A release of a reservation that does not exist leaves a released one behind, so that a late reserve is refused.
 */
const settle = `
  CREATE FUNCTION inventory.settle(
    p_tenant text, p_effects text[], p_reservations uuid[], p_kinds text[], p_lines jsonb[], OUT applied int
  ) LANGUAGE plpgsql AS $$
  DECLARE
    fresh text[];
    effect record;
  BEGIN
    WITH inserted AS (
      INSERT INTO inventory.applied_effects (tenant_id, effect_id)
      SELECT p_tenant, e.id FROM unnest(p_effects) AS e(id) ORDER BY e.id
      ON CONFLICT DO NOTHING
      RETURNING effect_id
    ) SELECT coalesce(array_agg(effect_id), '{}') INTO fresh FROM inserted;
    applied := cardinality(fresh);
    IF applied = 0 THEN RETURN; END IF;

    INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
    SELECT DISTINCT ON (r.id) p_tenant, r.id, 'released', '{}'::jsonb, now()
    FROM unnest(p_effects, p_reservations, p_kinds) AS r(effect_id, id, kind)
    WHERE r.kind = 'release' AND r.effect_id = ANY (fresh)
    ORDER BY r.id
    ON CONFLICT DO NOTHING;

    PERFORM 1 FROM inventory.reservations
    WHERE tenant_id = p_tenant AND reservation_id = ANY (p_reservations)
    ORDER BY reservation_id FOR UPDATE;

    PERFORM 1 FROM inventory.products
    WHERE tenant_id = p_tenant AND product_id IN (
      SELECT jsonb_object_keys(r.held) FROM inventory.reservations r
      WHERE r.tenant_id = p_tenant AND r.reservation_id = ANY (p_reservations) AND 'release' = ANY (p_kinds)
      UNION
      SELECT jsonb_object_keys(l.lines) FROM unnest(p_lines) AS l(lines)
    )
    ORDER BY product_id FOR NO KEY UPDATE;

    -- A confirmation commutes with what may follow it, so all of them go at once.
    UPDATE inventory.reservations r SET state = 'confirmed'
    FROM unnest(p_effects, p_reservations, p_kinds) AS e(effect_id, id, kind)
    WHERE e.kind = 'confirm' AND e.effect_id = ANY (fresh)
      AND r.tenant_id = p_tenant AND r.reservation_id = e.id AND r.state = 'held';

    FOR effect IN
      SELECT e.* FROM unnest(p_effects, p_reservations, p_kinds, p_lines)
        WITH ORDINALITY AS e(effect_id, reservation_id, kind, lines, position)
      WHERE e.kind <> 'confirm' AND e.effect_id = ANY (fresh) ORDER BY e.position
    LOOP
      IF effect.kind = 'release' THEN
        UPDATE inventory.products p SET reserved = p.reserved - h.units::bigint
        FROM inventory.reservations r, jsonb_each_text(r.held) AS h(product_id, units)
        WHERE r.tenant_id = p_tenant AND r.reservation_id = effect.reservation_id
          AND p.tenant_id = p_tenant AND p.product_id = h.product_id;
        UPDATE inventory.reservations SET state = 'released', held = '{}'
        WHERE tenant_id = p_tenant AND reservation_id = effect.reservation_id;
      ELSIF effect.kind = 'fulfil' THEN
        UPDATE inventory.products p
        SET on_hand = p.on_hand - l.units::bigint, reserved = p.reserved - l.units::bigint, sold = p.sold + l.units::bigint
        FROM jsonb_each_text(effect.lines) AS l(product_id, units)
        WHERE p.tenant_id = p_tenant AND p.product_id = l.product_id;
        UPDATE inventory.reservations r
        SET held = n.held, state = CASE WHEN n.held = '{}' THEN 'fulfilled' ELSE r.state END
        FROM (
          SELECT coalesce(jsonb_object_agg(h.product_id, h.units::bigint - coalesce((effect.lines ->> h.product_id)::bigint, 0))
                   FILTER (WHERE h.units::bigint <> coalesce((effect.lines ->> h.product_id)::bigint, 0)), '{}') AS held
          FROM inventory.reservations e, jsonb_each_text(e.held) AS h(product_id, units)
          WHERE e.tenant_id = p_tenant AND e.reservation_id = effect.reservation_id
        ) n
        WHERE r.tenant_id = p_tenant AND r.reservation_id = effect.reservation_id
          AND NOT EXISTS (
            SELECT 1 FROM jsonb_each_text(effect.lines) AS l(product_id, units)
            WHERE coalesce((r.held ->> l.product_id)::bigint, 0) < l.units::bigint);
        IF NOT FOUND THEN
          RAISE EXCEPTION 'effect % fulfils more than reservation % holds', effect.effect_id, effect.reservation_id;
        END IF;
      ELSE
        UPDATE inventory.products p SET on_hand = p.on_hand + l.units::bigint
        FROM jsonb_each_text(effect.lines) AS l(product_id, units)
        WHERE p.tenant_id = p_tenant AND p.product_id = l.product_id;
      END IF;
      INSERT INTO inventory.stock_moves (tenant_id, product_id, kind, delta, effect_id)
      SELECT p_tenant, l.product_id, CASE effect.kind WHEN 'fulfil' THEN 'fulfilled' ELSE 'returned' END,
             CASE effect.kind WHEN 'fulfil' THEN -l.units::bigint ELSE l.units::bigint END, effect.effect_id
      FROM jsonb_each_text(effect.lines) AS l(product_id, units)
      WHERE effect.kind IN ('fulfil', 'restock');
    END LOOP;
  END $$`;

/**
 * Sets what was counted on the shelf, for all of the products or, when one is unknown or would fall below what is
 * reserved, for none: \`unknown\` and \`below\` then name them.
 */
const countStock = `
  CREATE FUNCTION inventory.count_stock(
    p_tenant text, p_products text[], p_on_hand bigint[], OUT unknown text[], OUT below jsonb, OUT stock jsonb
  ) LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM 1 FROM inventory.products WHERE tenant_id = p_tenant AND product_id = ANY (p_products)
    ORDER BY product_id FOR NO KEY UPDATE;

    SELECT coalesce(array_agg(w.product_id) FILTER (WHERE p.product_id IS NULL), '{}'),
           jsonb_agg(jsonb_build_object('product_id', p.product_id, 'on_hand', w.on_hand, 'reserved', p.reserved))
             FILTER (WHERE w.on_hand < p.reserved)
    INTO unknown, below
    FROM unnest(p_products, p_on_hand) AS w(product_id, on_hand)
    LEFT JOIN inventory.products p ON p.tenant_id = p_tenant AND p.product_id = w.product_id;
    IF unknown <> '{}' OR below IS NOT NULL THEN RETURN; END IF;

    INSERT INTO inventory.stock_moves (tenant_id, product_id, kind, delta)
    SELECT p_tenant, w.product_id, 'counted', w.on_hand - p.on_hand
    FROM unnest(p_products, p_on_hand) AS w(product_id, on_hand)
    JOIN inventory.products p ON p.tenant_id = p_tenant AND p.product_id = w.product_id
    WHERE w.on_hand <> p.on_hand;

    UPDATE inventory.products p SET on_hand = w.on_hand
    FROM unnest(p_products, p_on_hand) AS w(product_id, on_hand)
    WHERE p.tenant_id = p_tenant AND p.product_id = w.product_id AND p.on_hand <> w.on_hand;

    SELECT jsonb_agg(jsonb_build_object('product_id', p.product_id, 'on_hand', p.on_hand, 'reserved', p.reserved,
             'sold', p.sold) ORDER BY w.position)
    INTO stock
    FROM unnest(p_products) WITH ORDINALITY AS w(product_id, position)
    JOIN inventory.products p ON p.tenant_id = p_tenant AND p.product_id = w.product_id;
  END $$`;

/**
 * Adds \`p_delta\` to what lies on the shelf, once a key. \`outcome\` is adjusted, replayed, key-reused, unknown, below
 * (more would be taken than is free of promises; \`stock\` then shows what there is) or above (more than \`p_most\`).
 */
const adjustStock = `
  CREATE FUNCTION inventory.adjust_stock(
    p_tenant text, p_account text, p_key text, p_product text, p_delta bigint, p_reason text, p_most bigint,
    OUT outcome text, OUT stock jsonb
  ) LANGUAGE plpgsql AS $$
  DECLARE
    held inventory.products;
    earlier inventory.stock_moves;
  BEGIN
    SELECT * INTO held FROM inventory.products WHERE tenant_id = p_tenant AND product_id = p_product FOR NO KEY UPDATE;

    SELECT * INTO earlier FROM inventory.stock_moves
    WHERE tenant_id = p_tenant AND account_id = p_account AND idempotency_key = p_key;
    IF FOUND THEN
      IF earlier.product_id = p_product AND earlier.delta = p_delta AND earlier.reason = p_reason THEN
        outcome := 'replayed'; stock := earlier.answer;
      ELSE
        outcome := 'key-reused';
      END IF;
      RETURN;
    END IF;

    IF held.product_id IS NULL THEN outcome := 'unknown'; RETURN; END IF;
    stock := jsonb_build_object('product_id', held.product_id, 'on_hand', held.on_hand, 'reserved', held.reserved,
      'sold', held.sold);
    IF held.on_hand + p_delta < held.reserved THEN outcome := 'below'; RETURN; END IF;
    IF held.on_hand + p_delta > p_most THEN outcome := 'above'; RETURN; END IF;

    stock := jsonb_set(stock, '{on_hand}', to_jsonb(held.on_hand + p_delta));
    BEGIN
      INSERT INTO inventory.stock_moves (tenant_id, product_id, kind, delta, reason, account_id, idempotency_key, answer)
      VALUES (p_tenant, p_product, 'adjusted', p_delta, p_reason, p_account, p_key, stock);
    EXCEPTION WHEN unique_violation THEN
      -- Only another product's adjustment can have taken the key since: those of this product wait for its row.
      outcome := 'key-reused'; RETURN;
    END;
    UPDATE inventory.products SET on_hand = held.on_hand + p_delta
    WHERE tenant_id = p_tenant AND product_id = p_product;
    outcome := 'adjusted';
  END $$`;
