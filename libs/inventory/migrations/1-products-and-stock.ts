import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Products with their stock, reservations, and the ledger of stock moves.
 *
 * Every decision about stock is taken inside the database by one function call, so that no row lock ever waits for an
 * event loop. All of them lock reservations in the order of their ids first, then products in the order of theirs.
 */
export class ProductsAndStock1764000000002 implements MigrationInterface {
  readonly name = 'ProductsAndStock1764000000002';

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
        -- The last safeguard against overselling, whatever the code does.
        CONSTRAINT stock_is_never_oversold CHECK (0 <= reserved AND reserved <= on_hand)
      ) WITH (fillfactor = 60)`);
    await runner.query(`
      CREATE TABLE inventory.reservations (
        tenant_id text COLLATE "C" NOT NULL,
        reservation_id uuid NOT NULL,
        -- The order that the stock is held for; null if a release arrived before any try.
        order_id uuid,
        state text COLLATE "C" NOT NULL CHECK (state IN ('held', 'confirmed', 'fulfilled', 'released', 'refused')),
        -- Units still held, by product id; empty once none are.
        held jsonb NOT NULL,
        -- The missing units of a refused reservation.
        shortages jsonb,
        -- The inbox: the last version of the order whose effect was applied. Effects arrive in version order.
        settled_version int NOT NULL DEFAULT 0,
        deadline_at timestamptz(3) NOT NULL,
        PRIMARY KEY (tenant_id, reservation_id)
        -- Leaves room in the page for the later confirmation, so that it is a HOT update that touches no index.
      ) WITH (fillfactor = 60)`);
    // Rows are stored in the order of their deadlines, and a block-range index is not touched by updates of other columns.
    await runner.query(`
      CREATE INDEX reservations_by_deadline ON inventory.reservations USING brin (deadline_at)
      WITH (pages_per_range = 16, autosummarize = on)`);
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
        -- The stock after a keyed adjustment: the stored answer for repeats.
        answer jsonb,
        -- For a move caused by an order: its reservation and the version of the order.
        reservation_id uuid,
        version int,
        moved_at timestamptz(3) NOT NULL DEFAULT now()
      )`);
    await runner.query(`CREATE INDEX stock_moves_by_product ON inventory.stock_moves (tenant_id, product_id, move_id)`);
    await runner.query(`
      CREATE UNIQUE INDEX stock_moves_by_key ON inventory.stock_moves (tenant_id, account_id, idempotency_key)
      WHERE idempotency_key IS NOT NULL`);
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
    for (const name of ['settings', 'stock_moves', 'reservations', 'products'])
      await runner.query(`DROP TABLE inventory.${name}`);
  }
}

/**
 * A plan is made once, on tables that are still empty, and has to serve batches of every size. So arrays are joined by hash
 * instead of nested loops, and rows are fetched by `key = ANY (array)`, which only an index can answer.
 */
export const planning = 'SET enable_nestloop = off SET enable_seqscan = off';

/** What `reserve` takes and returns. */
export const reserveParameters = `p_tenant text,
    p_reservations uuid[], p_orders uuid[], p_held jsonb[], p_hold_ms bigint,
    p_products text[], p_wanted bigint[],
    p_line_reservation int[], p_line_product int[], p_line_quantity bigint[],
    -- Units of the line at the catalogue price, and the sum of the others, whose prices the caller sets.
    p_line_catalogue_quantity bigint[], p_own_priced_minor bigint[],
    -- The allowed range of the sum of a reservation's lines; null elements mean no limit.
    p_at_least bigint[], p_at_most bigint[],
    OUT outcomes text[], OUT details jsonb[], OUT orders uuid[],
    OUT names text[], OUT prices bigint[], OUT currencies text[]`;

/**
 * Decides a batch of reservations, each all-or-nothing, in the given order.
 *
 * The lines are summed by reservation and product and grouped by reservation; `p_line_reservation` and `p_line_product` are
 * positions (from 1) in `p_reservations` and `p_products`; `p_wanted` is how many units of each product all lines together
 * want. Per reservation the result has an outcome, the detail of a refusal, and the order that it is held for; and for each
 * of `p_products` its name, price and currency (null if there is no such product).
 *
 * A reservation that exists keeps its decision and its order. A hold whose total has left the requested range because prices
 * have changed is refused like a new one, but stays held: another try may be about to record its order. Only such a refusal
 * has an order.
 *
 * If everything fits, one update takes the units of the whole batch; if something does not, or a total has to be checked,
 * the reservations are decided one by one on arrays.
 */
export const reserve = `
  CREATE OR REPLACE FUNCTION inventory.reserve(
    ${reserveParameters}
  ) LANGUAGE plpgsql ${planning} AS $$
  DECLARE
    reservation_count int := cardinality(p_reservations);
    product_count int := cardinality(p_products);
    line_count int := cardinality(p_line_reservation);
    fresh uuid[] := '{}';
    available bigint[];
    taken bigint[] := p_wanted;
    everything_fits boolean;
    kept text;
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
    LOOP
      outcomes := array_fill(NULL::text, ARRAY[reservation_count]);
      details := array_fill(NULL::jsonb, ARRAY[reservation_count]);
      orders := p_orders;

      WITH inserted AS (
        INSERT INTO inventory.reservations (tenant_id, reservation_id, order_id, state, held, deadline_at)
        SELECT p_tenant, r.id, r.order_id, 'held', r.held, now() + p_hold_ms * interval '1 millisecond'
        FROM unnest(p_reservations, p_orders, p_held) AS r(id, order_id, held)
        ORDER BY r.id
        ON CONFLICT DO NOTHING
        RETURNING reservation_id
      ) SELECT fresh || coalesce(array_agg(reservation_id), '{}') INTO fresh FROM inserted;
      EXIT WHEN cardinality(fresh) = reservation_count;

      -- Earlier decisions, in the order of the batch; those of new reservations stay null.
      SELECT array_agg(CASE WHEN e.reservation_id = ANY (fresh) THEN NULL
                            WHEN e.state = 'refused' THEN 'out-of-stock'
                            WHEN e.state = 'released' THEN 'released'
                            ELSE 'held' END ORDER BY r.position),
             array_agg(CASE WHEN e.state = 'refused' THEN e.shortages END ORDER BY r.position),
             array_agg(e.order_id ORDER BY r.position)
      INTO outcomes, details, orders
      FROM unnest(p_reservations) WITH ORDINALITY AS r(id, position)
      JOIN inventory.reservations e ON e.reservation_id = r.id
      WHERE e.tenant_id = p_tenant AND e.reservation_id = ANY (p_reservations);
      -- An old refusal may be purged after the insert conflicted with it and before it is read here: then decide again.
      EXIT WHEN cardinality(orders) = reservation_count;
    END LOOP;

    IF cardinality(fresh) < reservation_count THEN
      SELECT array_agg(coalesce(d.units, 0) ORDER BY w.position) INTO taken
      FROM generate_series(1, product_count) AS w(position)
      LEFT JOIN (
        SELECT l.product, sum(l.quantity)::bigint AS units
        FROM unnest(p_line_reservation, p_line_product, p_line_quantity) AS l(reservation, product, quantity)
        WHERE outcomes[l.reservation] IS NULL
        GROUP BY l.product
      ) d ON d.product = w.position;
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

    -- A null in available means an unknown product. With more than one currency, each order is checked by itself.
    SELECT bool_and(x.available IS NOT NULL AND x.taken <= x.available) INTO everything_fits
    FROM unnest(taken, available) AS x(taken, available);
    everything_fits := everything_fits
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
        kept := outcomes[reservation];
        CONTINUE WHEN kept IN ('out-of-stock', 'released');
        IF unknown <> '[]' THEN
          outcomes[reservation] := 'unknown-product'; details[reservation] := unknown;
        ELSIF cardinality(seen_currencies) > 1 THEN
          outcomes[reservation] := 'currency-mismatch'; details[reservation] := to_jsonb(seen_currencies);
        ELSIF total < p_at_least[reservation] OR total > p_at_most[reservation] THEN
          outcomes[reservation] := 'total-outside';
          details[reservation] := CASE WHEN abs(total) < 9007199254740992 THEN to_jsonb(total) ELSE 'null'::jsonb END;
        ELSIF kept = 'held' THEN
          CONTINUE;
        ELSIF missing <> '[]' THEN
          outcomes[reservation] := 'out-of-stock'; details[reservation] := missing;
          refused := refused || p_reservations[reservation]; refused_for := refused_for || missing;
        ELSE
          outcomes[reservation] := 'held';
          FOR i IN first_line..line - 1 LOOP
            taken[p_line_product[i]] := taken[p_line_product[i]] + p_line_quantity[i];
          END LOOP;
        END IF;
        IF kept IS NULL AND outcomes[reservation] NOT IN ('held', 'out-of-stock') THEN
          forgotten := forgotten || p_reservations[reservation]; orders[reservation] := NULL;
        END IF;
      END LOOP;
      UPDATE inventory.reservations r SET state = 'refused', held = '{}', shortages = x.shortages
      FROM unnest(refused, refused_for) AS x(id, shortages)
      WHERE r.tenant_id = p_tenant AND r.reservation_id = ANY (refused) AND r.reservation_id = x.id;
      DELETE FROM inventory.reservations WHERE tenant_id = p_tenant AND reservation_id = ANY (forgotten);
    END IF;

    UPDATE inventory.products p SET reserved = p.reserved + t.units
    FROM unnest(p_products, taken) AS t(product_id, units)
    WHERE p.tenant_id = p_tenant AND p.product_id = ANY (p_products) AND p.product_id = t.product_id AND t.units > 0;
  END $$`;

/**
 * Applies what became of orders: `confirm` makes a hold permanent, `release` gives back what is still held, `fulfil` takes
 * units out of the stock on hand, `restock` puts returned units back. An effect is skipped if its version, or a later one,
 * was already applied to the reservation. A release without a reservation inserts a released one, so that a late reserve is
 * refused.
 *
 * An effect that cannot be applied, because there is no reservation, fewer units are held than it fulfils, or a product is
 * unknown, changes nothing and does not count as applied: it is returned in `impossible`, and does not hold up other
 * effects.
 *
 * Most effects are confirmations. They commute with effects that may follow them, so all are applied in one update, which
 * finds and locks the reservations in index order; a confirmation that comes late confirms what is still held.
 */
export const settle = `
  CREATE OR REPLACE FUNCTION inventory.settle(
    p_tenant text, p_reservations uuid[], p_versions int[], p_kinds text[], p_lines jsonb[],
    OUT applied int, OUT impossible jsonb
  ) LANGUAGE plpgsql ${planning} SET enable_bitmapscan = off AS $$
  DECLARE
    effects int[];
    effect int;
    concerned text[];
    unknown_products text[];
    missing uuid[];
    absent_count int;
    patience text := current_setting('lock_timeout');
    held_units jsonb;
    settled int;
    units jsonb;
    -- One element for each effect that moves stock: its position, and units by product.
    moved int[] := '{}';
    moved_units jsonb[] := '{}';
  BEGIN
    impossible := '[]';
    effects := ARRAY(SELECT k.position FROM unnest(p_kinds) WITH ORDINALITY AS k(kind, position)
                     WHERE k.kind <> 'confirm' ORDER BY k.position);

    IF effects <> '{}' THEN
      INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
      SELECT DISTINCT p_tenant, r.id, 'released', '{}'::jsonb, now()
      FROM unnest(p_reservations, p_kinds) AS r(id, kind) WHERE r.kind = 'release'
      ORDER BY r.id
      ON CONFLICT DO NOTHING;

      PERFORM 1 FROM inventory.reservations
      WHERE tenant_id = p_tenant AND reservation_id = ANY (p_reservations)
      ORDER BY reservation_id FOR NO KEY UPDATE;

      concerned := ARRAY(
        SELECT jsonb_object_keys(r.held) FROM inventory.reservations r
        WHERE r.tenant_id = p_tenant AND r.reservation_id = ANY (p_reservations) AND 'release' = ANY (p_kinds)
        UNION
        SELECT jsonb_object_keys(e.lines) FROM unnest(p_lines) AS e(lines));
      PERFORM 1 FROM inventory.products WHERE tenant_id = p_tenant AND product_id = ANY (concerned)
      ORDER BY product_id FOR NO KEY UPDATE;
      unknown_products := ARRAY(
        SELECT unnest(concerned)
        EXCEPT
        SELECT product_id FROM inventory.products WHERE tenant_id = p_tenant AND product_id = ANY (concerned));
    END IF;

    UPDATE inventory.reservations r
    SET state = CASE r.state WHEN 'held' THEN 'confirmed' ELSE r.state END,
        settled_version = greatest(r.settled_version, c.version)
    FROM (
      SELECT e.id, max(e.version) AS version FROM unnest(p_reservations, p_versions, p_kinds) AS e(id, version, kind)
      WHERE e.kind = 'confirm' GROUP BY e.id
    ) c
    WHERE r.tenant_id = p_tenant AND r.reservation_id = ANY (p_reservations) AND r.reservation_id = c.id
      AND (r.settled_version < c.version OR r.state = 'held');
    GET DIAGNOSTICS applied = ROW_COUNT;

    IF applied + cardinality(effects) < cardinality(p_kinds) THEN
      missing := ARRAY(
        SELECT e.id FROM unnest(p_reservations, p_kinds) AS e(id, kind) WHERE e.kind = 'confirm'
        EXCEPT
        SELECT reservation_id FROM inventory.reservations
        WHERE tenant_id = p_tenant AND reservation_id = ANY (p_reservations));
      IF missing <> '{}' THEN
        -- A prepared reservation is invisible until it is committed, but an insert of the same id waits for it. The wait is
        -- short, because others wait for the products that are locked here; after a time-out the event is delivered again.
        PERFORM set_config('lock_timeout', '50ms', true);
        WITH absent AS (
          INSERT INTO inventory.reservations (tenant_id, reservation_id, state, held, deadline_at)
          SELECT p_tenant, m.id, 'released', '{}'::jsonb, now() FROM unnest(missing) AS m(id) ORDER BY m.id
          ON CONFLICT DO NOTHING
          RETURNING 1
        ) SELECT count(*) INTO absent_count FROM absent;
        IF absent_count < cardinality(missing) THEN
          RAISE EXCEPTION 'a reservation was committed meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
        PERFORM set_config('lock_timeout', patience, true);
        DELETE FROM inventory.reservations WHERE tenant_id = p_tenant AND reservation_id = ANY (missing);
        SELECT jsonb_agg(jsonb_build_object('reservation_id', e.id, 'version', e.version)) INTO impossible
        FROM unnest(p_reservations, p_versions, p_kinds) AS e(id, version, kind)
        WHERE e.kind = 'confirm' AND e.id = ANY (missing);
      END IF;
    END IF;
    IF effects = '{}' THEN RETURN; END IF;

    FOREACH effect IN ARRAY effects LOOP
      SELECT r.held, r.settled_version INTO held_units, settled FROM inventory.reservations r
      WHERE r.tenant_id = p_tenant AND r.reservation_id = p_reservations[effect];
      CONTINUE WHEN settled >= p_versions[effect];
      units := CASE p_kinds[effect] WHEN 'release' THEN held_units ELSE p_lines[effect] END;
      IF settled IS NULL OR units ?| unknown_products OR p_kinds[effect] = 'fulfil' AND EXISTS (
        SELECT FROM jsonb_each_text(units) AS u(product_id, wanted)
        WHERE u.wanted::bigint > coalesce((held_units ->> u.product_id)::bigint, 0)
      ) THEN
        impossible := impossible || jsonb_build_object('reservation_id', p_reservations[effect], 'version', p_versions[effect]);
        CONTINUE;
      END IF;
      applied := applied + 1;
      moved := moved || effect; moved_units := moved_units || units;

      IF p_kinds[effect] <> 'restock' THEN
        SELECT coalesce(jsonb_object_agg(l.product_id, l.remaining) FILTER (WHERE l.remaining > 0), '{}') INTO held_units
        FROM (
          SELECT h.product_id, h.quantity::bigint - coalesce((units ->> h.product_id)::bigint, 0) AS remaining
          FROM jsonb_each_text(held_units) AS h(product_id, quantity)
        ) l;
      END IF;
      UPDATE inventory.reservations r
      SET held = held_units, settled_version = p_versions[effect],
          state = CASE WHEN p_kinds[effect] = 'release' THEN 'released'
                       WHEN p_kinds[effect] = 'fulfil' AND held_units = '{}' THEN 'fulfilled'
                       ELSE r.state END
      WHERE r.tenant_id = p_tenant AND r.reservation_id = p_reservations[effect];
    END LOOP;

    UPDATE inventory.products p
    SET on_hand = p.on_hand - m.fulfilled + m.restocked,
        reserved = p.reserved - m.fulfilled - m.released,
        sold = p.sold + m.fulfilled
    FROM (
      SELECT u.product_id,
             coalesce(sum(u.quantity::bigint) FILTER (WHERE p_kinds[e.position] = 'fulfil'), 0)::bigint AS fulfilled,
             coalesce(sum(u.quantity::bigint) FILTER (WHERE p_kinds[e.position] = 'release'), 0)::bigint AS released,
             coalesce(sum(u.quantity::bigint) FILTER (WHERE p_kinds[e.position] = 'restock'), 0)::bigint AS restocked
      FROM unnest(moved, moved_units) AS e(position, units), jsonb_each_text(e.units) AS u(product_id, quantity)
      GROUP BY u.product_id
    ) m
    WHERE p.tenant_id = p_tenant AND p.product_id = ANY (concerned) AND p.product_id = m.product_id;

    INSERT INTO inventory.stock_moves (tenant_id, product_id, kind, delta, reservation_id, version)
    SELECT p_tenant, u.product_id, CASE p_kinds[e.position] WHEN 'fulfil' THEN 'fulfilled' ELSE 'returned' END,
           CASE p_kinds[e.position] WHEN 'fulfil' THEN -u.quantity::bigint ELSE u.quantity::bigint END,
           p_reservations[e.position], p_versions[e.position]
    FROM unnest(moved, moved_units) AS e(position, units), jsonb_each_text(e.units) AS u(product_id, quantity)
    WHERE p_kinds[e.position] IN ('fulfil', 'restock');
  END $$`;

/**
 * Sets the counted stock on hand for all of the products; or for none, if one is unknown or would fall below what is
 * reserved: `unknown` and `below` name those.
 */
const countStock = `
  CREATE FUNCTION inventory.count_stock(
    p_tenant text, p_products text[], p_on_hand bigint[], OUT unknown text[], OUT below jsonb, OUT stock jsonb
  ) LANGUAGE plpgsql ${planning} AS $$
  BEGIN
    PERFORM 1 FROM inventory.products WHERE tenant_id = p_tenant AND product_id = ANY (p_products)
    ORDER BY product_id FOR NO KEY UPDATE;

    SELECT coalesce(array_agg(w.product_id ORDER BY w.position) FILTER (WHERE p.product_id IS NULL), '{}'),
           jsonb_agg(jsonb_build_object('product_id', p.product_id, 'on_hand', w.on_hand, 'reserved', p.reserved)
             ORDER BY w.position) FILTER (WHERE w.on_hand < p.reserved)
    INTO unknown, below
    FROM unnest(p_products, p_on_hand) WITH ORDINALITY AS w(product_id, on_hand, position)
    LEFT JOIN inventory.products p
      ON p.tenant_id = p_tenant AND p.product_id = ANY (p_products) AND p.product_id = w.product_id;
    IF unknown <> '{}' OR below IS NOT NULL THEN RETURN; END IF;

    INSERT INTO inventory.stock_moves (tenant_id, product_id, kind, delta)
    SELECT p_tenant, w.product_id, 'counted', w.on_hand - p.on_hand
    FROM unnest(p_products, p_on_hand) AS w(product_id, on_hand)
    JOIN inventory.products p ON p.product_id = w.product_id
    WHERE p.tenant_id = p_tenant AND p.product_id = ANY (p_products) AND w.on_hand <> p.on_hand;

    UPDATE inventory.products p SET on_hand = w.on_hand
    FROM unnest(p_products, p_on_hand) AS w(product_id, on_hand)
    WHERE p.tenant_id = p_tenant AND p.product_id = ANY (p_products) AND p.product_id = w.product_id
      AND p.on_hand <> w.on_hand;

    SELECT jsonb_agg(jsonb_build_object('product_id', p.product_id, 'on_hand', p.on_hand, 'reserved', p.reserved,
             'sold', p.sold) ORDER BY w.position)
    INTO stock
    FROM unnest(p_products) WITH ORDINALITY AS w(product_id, position)
    JOIN inventory.products p ON p.product_id = w.product_id
    WHERE p.tenant_id = p_tenant AND p.product_id = ANY (p_products);
  END $$`;

/**
 * Changes the stock on hand by `p_delta`, once per key. `outcome` is adjusted, replayed, key-reused, unknown, below (more
 * would be taken than is not promised; `stock` then shows what there is) or above (more than `p_most`).
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
      -- The key was used for another product meanwhile: adjustments of this product wait for its row lock.
      outcome := 'key-reused'; RETURN;
    END;
    UPDATE inventory.products SET on_hand = held.on_hand + p_delta
    WHERE tenant_id = p_tenant AND product_id = p_product;
    outcome := 'adjusted';
  END $$`;
