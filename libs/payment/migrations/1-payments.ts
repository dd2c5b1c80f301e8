import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Payments, their operations at providers, and the ledger of the simulated provider.
 *
 * The database decides which operations are allowed: an amount is reserved before the provider is asked, so that two
 * concurrent refunds cannot return more than was captured. Every writer locks the row of the payment first, and those of a
 * batch in the order of their order ids.
 */
export class Payments1764000000003 implements MigrationInterface {
  readonly name = 'Payments1764000000003';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      CREATE TABLE payment.payments (
        tenant_id text COLLATE "C" NOT NULL,
        order_id uuid NOT NULL,
        -- Null if the payment was reversed before it was authorised.
        method text COLLATE "C",
        currency text COLLATE "C",
        -- The token of the means of payment; deleted once the provider has decided.
        token text,
        amount_minor bigint NOT NULL DEFAULT 0,
        authorised_minor bigint NOT NULL DEFAULT 0,
        captured_minor bigint NOT NULL DEFAULT 0,
        refunded_minor bigint NOT NULL DEFAULT 0,
        -- Amounts requested from the provider and not decided yet.
        capturing_minor bigint NOT NULL DEFAULT 0,
        refunding_minor bigint NOT NULL DEFAULT 0,
        -- A fence: nothing is authorised or captured from now on.
        reversed boolean NOT NULL DEFAULT false,
        created_at timestamptz(3) NOT NULL DEFAULT now(),
        updated_at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, order_id),
        CONSTRAINT money_adds_up CHECK (
          0 <= refunding_minor AND 0 <= capturing_minor AND 0 <= refunded_minor
          AND refunded_minor + refunding_minor <= captured_minor
          AND captured_minor + capturing_minor <= authorised_minor
          AND authorised_minor <= amount_minor
        )
      ) WITH (fillfactor = 60)`);
    await runner.query(`
      CREATE TABLE payment.operations (
        tenant_id text COLLATE "C" NOT NULL,
        operation_id uuid NOT NULL,
        order_id uuid NOT NULL,
        kind text COLLATE "C" NOT NULL CHECK (kind IN ('authorise', 'capture', 'refund', 'void')),
        amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
        state text COLLATE "C" NOT NULL CHECK (state IN ('open', 'succeeded', 'refused')),
        reason text,
        at timestamptz(3) NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant_id, operation_id)
      ) WITH (fillfactor = 70)`);
    await runner.query(`CREATE INDEX operations_by_order ON payment.operations (tenant_id, order_id)`);
    await runner.query(`
      CREATE TABLE payment.simulated_ledger (
        tenant_id text COLLATE "C" NOT NULL,
        operation_id uuid NOT NULL,
        order_id uuid NOT NULL,
        kind text COLLATE "C" NOT NULL,
        amount_minor bigint NOT NULL,
        token text,
        refused_for text,
        -- When the provider decided.
        decided_at timestamptz(3) NOT NULL,
        PRIMARY KEY (tenant_id, operation_id)
      )`);
    await runner.query(`CREATE INDEX simulated_ledger_by_order ON payment.simulated_ledger (tenant_id, order_id)`);
    await runner.query(begin);
    await runner.query(settle);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const name of ['settle', 'begin']) await runner.query(`DROP FUNCTION payment.${name}`);
    for (const name of ['simulated_ledger', 'operations', 'payments']) await runner.query(`DROP TABLE payment.${name}`);
  }
}

/** As in inventory: arrays are joined by hash, and rows are fetched by `key = ANY (array)`, at any size of the tables. */
const planning = 'SET enable_nestloop = off SET enable_seqscan = off';

/**
 * Decides which operations may be asked of the providers, and stores them: an operation is recorded before it is carried
 * out. At most one operation per order. The result has a row per operation, in the given order; an operation that exists is
 * returned as it is. A reversal becomes a void or a refund, depending on the state of the payment. It waits, and is not
 * stored, while another operation is in progress, but from then on nothing new is authorised or captured. A capture of the
 * whole rest waits as well, and reserves nothing: the rest is known once the other operation has ended.
 */
export const begin = `
  CREATE OR REPLACE FUNCTION payment.begin(
    p_tenant text, p_operations uuid[], p_orders uuid[], p_kinds text[],
    -- Null to capture everything that can be captured, and for a reversal.
    p_amounts bigint[], p_methods text[], p_tokens text[], p_currencies text[]
  ) RETURNS TABLE (
    "position" int, kind text, state text, reason text, amount_minor bigint, method text, token text, currency text
  ) LANGUAGE plpgsql ${planning} AS $$
  BEGIN
    INSERT INTO payment.payments (tenant_id, order_id, method, currency, token, amount_minor)
    SELECT p_tenant, w.order_id, w.method, w.currency, CASE WHEN w.amount > 0 THEN w.token END, coalesce(w.amount, 0)
    FROM unnest(p_orders, p_kinds, p_amounts, p_methods, p_tokens, p_currencies)
      AS w(order_id, kind, amount, method, token, currency)
    WHERE w.kind IN ('authorise', 'reverse')
    ORDER BY w.order_id
    ON CONFLICT DO NOTHING;

    PERFORM 1 FROM payment.payments p WHERE p.tenant_id = p_tenant AND p.order_id = ANY (p_orders)
    ORDER BY p.order_id FOR NO KEY UPDATE;

    RETURN QUERY
    WITH wanted AS (
      SELECT * FROM unnest(p_operations, p_orders, p_kinds, p_amounts) WITH ORDINALITY
        AS w(operation_id, order_id, kind, amount, at_place)
    ), known AS (
      SELECT o.* FROM payment.operations o WHERE o.tenant_id = p_tenant AND o.operation_id = ANY (p_operations)
    ), payments AS (
      SELECT p.* FROM payment.payments p WHERE p.tenant_id = p_tenant AND p.order_id = ANY (p_orders)
    ), others AS (
      SELECT o.order_id, bool_or(o.state = 'open') AS under_way, bool_or(o.kind = 'authorise') AS authorised
      FROM payment.operations o
      WHERE o.tenant_id = p_tenant AND o.order_id = ANY (p_orders) AND o.operation_id <> ALL (p_operations)
      GROUP BY o.order_id
    ), judged AS (
      SELECT w.at_place, w.operation_id, w.order_id, w.kind AS asked, k.operation_id IS NOT NULL AS is_known,
        CASE
          WHEN k.operation_id IS NOT NULL THEN k.kind
          WHEN w.kind <> 'reverse' THEN w.kind
          WHEN p.captured_minor > 0 THEN 'refund'
          ELSE 'void'
        END AS kind,
        CASE
          WHEN k.operation_id IS NOT NULL THEN k.amount_minor
          WHEN w.kind = 'capture' THEN coalesce(w.amount, p.authorised_minor - p.captured_minor - p.capturing_minor, 0)
          WHEN w.kind <> 'reverse' THEN w.amount
          WHEN p.captured_minor > 0 THEN p.captured_minor - p.refunded_minor
          ELSE p.authorised_minor
        END AS amount,
        k.state, k.reason,
        (w.kind = 'reverse' OR w.kind = 'capture' AND w.amount IS NULL)
          AND k.operation_id IS NULL AND coalesce(o.under_way, false) AS waits,
        CASE w.kind
          WHEN 'authorise' THEN CASE
            WHEN p.reversed THEN 'reversed'
            WHEN o.authorised THEN 'authorised-already' END
          WHEN 'capture' THEN CASE
            WHEN p.order_id IS NULL THEN 'not-authorised'
            WHEN p.reversed THEN 'reversed'
            WHEN p.authorised_minor = 0 AND p.amount_minor > 0 THEN 'not-authorised'
            WHEN coalesce(w.amount, 0) > p.authorised_minor - p.captured_minor - p.capturing_minor
              THEN 'exceeds-authorised' END
          WHEN 'refund' THEN CASE
            WHEN p.order_id IS NULL THEN 'not-captured'
            WHEN w.amount > p.captured_minor - p.refunded_minor - p.refunding_minor THEN 'exceeds-captured' END
        END AS refusal,
        p.method, p.token, p.currency
      FROM wanted w
      LEFT JOIN known k USING (operation_id)
      LEFT JOIN payments p ON p.order_id = w.order_id
      LEFT JOIN others o ON o.order_id = w.order_id
    ), decided AS (
      SELECT j.at_place, j.operation_id, j.order_id, j.asked, j.is_known, j.kind, j.amount,
        CASE
          WHEN j.is_known THEN j.state
          WHEN j.waits THEN 'waits'
          WHEN j.refusal IS NOT NULL THEN 'refused'
          -- Nothing to move, so the provider is not called.
          WHEN j.amount = 0 THEN 'succeeded'
          ELSE 'open'
        END AS state,
        CASE
          WHEN j.is_known THEN j.reason
          WHEN j.waits THEN 'another operation is under way'
          ELSE j.refusal
        END AS reason,
        j.method, j.token, j.currency
      FROM judged j
    ), kept AS (
      INSERT INTO payment.operations (tenant_id, operation_id, order_id, kind, amount_minor, state, reason)
      SELECT p_tenant, d.operation_id, d.order_id, d.kind, d.amount, d.state, d.reason
      FROM decided d WHERE NOT d.is_known AND d.state <> 'waits'
    ), set_aside AS (
      UPDATE payment.payments p SET
        capturing_minor = p.capturing_minor + CASE WHEN d.kind = 'capture' AND d.state = 'open' THEN d.amount ELSE 0 END,
        refunding_minor = p.refunding_minor + CASE WHEN d.kind = 'refund' AND d.state = 'open' THEN d.amount ELSE 0 END,
        reversed = p.reversed OR d.asked = 'reverse',
        updated_at = now()
      FROM decided d
      WHERE p.tenant_id = p_tenant AND p.order_id = ANY (p_orders) AND p.order_id = d.order_id AND NOT d.is_known
        AND (d.asked = 'reverse' OR (d.state = 'open' AND d.kind IN ('capture', 'refund')))
    )
    SELECT d.at_place::int, d.kind, d.state, d.reason, d.amount, d.method, d.token, d.currency
    FROM decided d ORDER BY d.at_place;
  END $$`;

/** Stores the decisions of providers; an operation that is settled already stays as it is. */
const settle = `
  CREATE FUNCTION payment.settle(
    p_tenant text, p_operations uuid[], p_orders uuid[], p_states text[], p_reasons text[]
  ) RETURNS void LANGUAGE plpgsql ${planning} AS $$
  BEGIN
    PERFORM 1 FROM payment.payments p WHERE p.tenant_id = p_tenant AND p.order_id = ANY (p_orders)
    ORDER BY p.order_id FOR NO KEY UPDATE;

    WITH settled AS (
      UPDATE payment.operations o SET state = w.state, reason = w.reason
      FROM unnest(p_operations, p_states, p_reasons) AS w(operation_id, state, reason)
      WHERE o.tenant_id = p_tenant AND o.operation_id = ANY (p_operations) AND o.operation_id = w.operation_id
        AND o.state = 'open'
      RETURNING o.order_id, o.kind, o.state, o.amount_minor
    ), sums AS (
      SELECT s.order_id,
        coalesce(sum(s.amount_minor) FILTER (WHERE s.kind = 'authorise' AND s.state = 'succeeded'), 0)::bigint AS authorised,
        coalesce(sum(s.amount_minor) FILTER (WHERE s.kind = 'void' AND s.state = 'succeeded'), 0)::bigint AS voided,
        coalesce(sum(s.amount_minor) FILTER (WHERE s.kind = 'capture' AND s.state = 'succeeded'), 0)::bigint AS captured,
        coalesce(sum(s.amount_minor) FILTER (WHERE s.kind = 'refund' AND s.state = 'succeeded'), 0)::bigint AS refunded,
        coalesce(sum(s.amount_minor) FILTER (WHERE s.kind = 'capture'), 0)::bigint AS no_longer_capturing,
        coalesce(sum(s.amount_minor) FILTER (WHERE s.kind = 'refund'), 0)::bigint AS no_longer_refunding,
        bool_or(s.kind = 'authorise') AS is_authorised
      FROM settled s GROUP BY s.order_id
    )
    UPDATE payment.payments p SET
      authorised_minor = p.authorised_minor + s.authorised - s.voided,
      captured_minor = p.captured_minor + s.captured,
      refunded_minor = p.refunded_minor + s.refunded,
      capturing_minor = p.capturing_minor - s.no_longer_capturing,
      refunding_minor = p.refunding_minor - s.no_longer_refunding,
      token = CASE WHEN s.is_authorised THEN NULL ELSE p.token END,
      updated_at = now()
    FROM sums s
    WHERE p.tenant_id = p_tenant AND p.order_id = ANY (p_orders) AND p.order_id = s.order_id;
  END $$`;
