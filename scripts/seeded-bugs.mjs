// Mutation testing with chosen mutations: each is applied to a copy of the sources, and the tests that must catch it are run.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

const usage = `Applies one bug after the other to a copy of the sources, and runs the tests that must catch it.

  npm run test:bugs -- [text] [options]

  text      only the bugs whose description contains it; without it all of them, which takes hours
  --list    prints the descriptions
  --fit     only checks that each bug still applies to the sources
  --help    prints this text

The exit code is 1 if a bug is not caught or no longer applies.
`;

/** Each replaces a text in one file, everywhere it occurs. */
const all = [
  {
    bug: 'products are not locked before their stock is decided',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /\n\s*ORDER BY p\.product_id\n\s*FOR NO KEY UPDATE\n/g,
    by: '\n',
    caughtBy: 'libs/inventory/test/concurrency',
  },
  {
    bug: 'reservations are locked in the order of the request',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /\n\s*ORDER BY r\.id(?=\n\s*ON CONFLICT DO NOTHING\n\s*RETURNING reservation_id)/g,
    by: '',
    caughtBy: 'libs/inventory/test/concurrency',
  },
  {
    bug: 'a batch that is held at once locks reservations in the order of the request',
    file: 'libs/inventory/migrations/5-held-at-once.ts',
    replace: /\n\s*ORDER BY r\.id(?=;)/g,
    by: '',
    caughtBy: 'libs/inventory/test/concurrency',
  },
  {
    bug: 'a batch is held at once although a product does not have enough',
    file: 'libs/inventory/migrations/5-held-at-once.ts',
    replace: /cardinality\(names\) = cardinality\(p_products\) AND/g,
    by: '',
    caughtBy: 'libs/inventory/test/reserve',
  },
  {
    bug: 'an idempotency key may have several orders',
    file: 'libs/order/migrations/1-orders.ts',
    replace: /CREATE UNIQUE INDEX one_order_a_key/g,
    by: 'CREATE INDEX one_order_a_key',
    caughtBy: 'libs/order/test/place-order',
  },
  {
    bug: 'a hold is released without a tombstone',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /decided\.get\(it\) === 'void'/g,
    by: '!decided.has(it)',
    also: { replace: /if \(!known\.has\(order_id\)\) await/g, by: 'if (known.size < 0) await' },
    caughtBy: 'libs/order/test/sweep-holds',
  },
  {
    bug: 'a hold is released although its order was recorded during the sweep',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /decided\.get\(it\) === 'void'/g,
    by: "decided.has(it) && (known.get(it) ?? 'void') === 'void'",
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'the relay moves its checkpoint before stock is settled',
    file: 'libs/order/src/use-cases/relay-outbox.ts',
    replace: /const ofTenants = \[\.\.\.Map\.groupBy/g,
    by: 'await checkpoint.keep(); const ofTenants = [...Map.groupBy',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'an order is acknowledged before it is recorded',
    file: 'libs/order/src/use-cases/reserve-and-record.ts',
    replace: /const recorded = await this\.endingOnFailure\(/g,
    by: 'for (const { it, record } of held) results.set(it.placement, { order: record.order, replayed: false }); $&',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'an order is changed without checking its version',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /AND version = \$3 AND/g,
    by: 'AND $3::int > 0 AND',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'a refusal for a changed price leaves the hold of an earlier try',
    file: 'libs/order/src/use-cases/reserve-and-record.ts',
    replace: /heldBefore\.push\(/g,
    by: '[].push(',
    caughtBy: 'libs/order/test/model',
  },
  {
    bug: 'an order that was recorded is answered with a refusal for a changed price',
    file: 'libs/order/src/use-cases/reserve-and-record.ts',
    replace:
      /const open = await this\.replayStored\(tenant, (\[\.\.\.refused\.keys\(\)\]), results\);\n\s*await this\.endHolds\(/g,
    by:
      'for (const { placement: it } of heldBefore) results.set(it, refusalOf(refused.get(it)!, it.command)); ' +
      'const open = await this.replayStored(tenant, $1.filter((it) => !results.has(it)), results); await this.endHolds(',
    also: { replace: /this\.endHolds\(tenant, heldBefore, results\)/g, by: 'Promise.resolve()' },
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'cancelling an order does not stop the worker that leads its payment',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /(?<=step = 'reverse', state = 'running', attempts = 0,) epoch = epoch \+ 1,/g,
    by: '',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'a reversal does not wait for a capture in progress',
    file: 'libs/payment/migrations/1-payments.ts',
    replace: /\(w\.kind = 'reverse' OR (w\.kind = 'capture' AND w\.amount IS NULL)\)/g,
    by: '($1)',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'every try of a payment has an operation id of its own',
    file: 'libs/order/src/domain/saga-moves.ts',
    replace: /operationIdOf\(sagaId, step, round\)/g,
    by: 'operationIdOf(sagaId, step, round + attempts)',
    also: { replace: /step, round, data \}: Saga/g, by: 'step, round, data, attempts }: Saga' },
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'an operation that is reported twice counts twice',
    file: 'libs/payment/migrations/1-payments.ts',
    replace: / AND o\.operation_id = w\.operation_id\n\s*AND o\.state = 'open'/g,
    by: ' AND o.operation_id = w.operation_id',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'the reversal of a payment is told before a capture on request',
    file: 'libs/order/src/use-cases/run-sagas.ts',
    replace: /return reversed\.filter\(\(it\) => capturing\.has\(it\.orderId\)\);/g,
    by: 'return reversed.filter((it) => capturing.size < 0);',
    caughtBy: 'libs/order/test/sagas',
  },
  {
    bug: 'orders are recorded on a branch that recovery has aborted',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /WHERE \$19::uuid IS NOT NULL(?=\n\s*\)\n\s*SELECT CASE WHEN count\(\*\))/g,
    by: 'WHERE $$19::uuid IS NOT NULL ON CONFLICT DO NOTHING',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'cancelling the rest of an order refunds delivered goods too',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /\$4 = 'cancelled'/g,
    by: "$8 = 'cancelled'",
    caughtBy: 'libs/order/test/sagas',
  },
  {
    bug: 'an event that is delivered twice takes effect twice',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /CONTINUE WHEN settled >= p_versions\[effect\];/g,
    by: '',
    caughtBy: 'libs/inventory/test/stock',
  },
  {
    bug: 'decisions shift if a stored refusal is purged while it is repeated',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /EXIT WHEN cardinality\(orders\) = reservation_count;/g,
    by: 'EXIT;',
    caughtBy: 'libs/inventory/test/purge-refusals',
  },
  {
    bug: 'a confirmation of a prepared reservation is lost',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /SELECT p_tenant, m\.id, 'released'/g,
    by: "SELECT p_tenant || ' not', m.id, 'released'",
    caughtBy: 'libs/inventory/test/finish-branches',
  },
  {
    bug: 'a sweep counts for holds that it could not see yet',
    file: 'libs/inventory/src/adapters/postgres-stock.ts',
    replace: /SELECT least\(now\(\),[^`]* AS looked_at/g,
    by: 'SELECT now() AS looked_at',
    caughtBy: 'libs/inventory/test/finish-branches',
  },
  {
    bug: 'orders are recorded on a branch whose abort may have been purged',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /THEN 'late' ELSE 'commit' END/g,
    by: "THEN 'commit' ELSE 'commit' END",
    caughtBy: 'libs/order/test/finish-branches',
  },
  {
    bug: 'the decision about a branch that is still in doubt is forgotten',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: / AND branch_id <> ALL \(\$2::uuid\[\]\)/g,
    by: ' AND $$2::uuid[] IS NOT NULL',
    caughtBy: 'libs/order/test/finish-branches',
  },
  {
    bug: 'a refused batch forgets the reservations of other tenants too',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /WHERE tenant_id = p_tenant AND reservation_id = ANY \(forgotten\)/g,
    by: 'WHERE reservation_id = ANY (forgotten)',
    caughtBy: 'libs/inventory/test/model',
  },
  {
    bug: 'encrypted personal data is not bound to its order',
    file: 'libs/order/src/use-cases/customer-keys.ts',
    replace: /\['order', tenant, orderId\]/g,
    by: "['order', tenant]",
    caughtBy: 'libs/order/test/personal-data',
  },
  {
    bug: 'the fingerprint includes personal data',
    file: 'libs/order/src/domain/placement.ts',
    replace: /\['personal'\]/g,
    by: '[JSON.stringify(rest.personal)]',
    caughtBy: 'libs/order/test/personal-data',
  },
  {
    bug: "a customer's data key is cached",
    file: 'libs/order/src/use-cases/keep-personal-data.ts',
    replace: /const kept = await this\.keys\.keysOf\(tenant, customerIds\);/g,
    by: 'const kept = ((this as any).known ??= await this.keys.keysOf(tenant, customerIds)) as ReadonlyMap<string, WrappedKey>;',
    caughtBy: 'libs/order/test/personal-data',
  },
  {
    bug: 'an encrypted webhook secret is not bound to its endpoint',
    file: 'libs/webhooks/src/use-cases/keep-secrets.ts',
    replace: /\['webhook secret', tenant, endpointId\]/g,
    by: "['webhook secret', tenant, endpointId.slice(0, 0)]",
    caughtBy: 'libs/webhooks/test/secrets',
  },
  {
    bug: 'a repeat creates a data key for an erased customer',
    file: 'libs/order/src/use-cases/reserve-and-record.ts',
    replace: /!keys\.has\(it\.command\.customerId\) \|\| faultOf\(it\)/g,
    by: 'faultOf(it)',
    caughtBy: 'libs/order/test/personal-data',
  },
  {
    bug: 'an audit entry is written only after the operation',
    file: 'libs/rest/src/audit.ts',
    replace: /const written = authenticator\.auditLog!\.append\(entry\);/g,
    by: 'const written = Promise.resolve();',
    caughtBy: 'libs/access/test/audit',
  },
  {
    bug: 'the relay to inventory skips events of running transactions',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: / AND e\.xid < \$\{horizon\}(?=\s+ORDER BY e\.xid, e\.id LIMIT \$3`)/g,
    by: '',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: "a tenant's change feed skips events of running transactions",
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: /(?<=e\.tenant_id <= \$1) AND e\.xid < \$\{horizon\}/g,
    by: '',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'the log skips events of running transactions',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: / AND xid < \$\{horizon\}(?=\s+ORDER BY xid DESC)/g,
    by: '',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'full pages of the log skip events of running transactions',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: / AND xid < \$\{horizon\}(?=\s+ORDER BY xid, id OFFSET \$3::bigint - 1 LIMIT 1\)\n)/g,
    by: '',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'a page that was read ahead is returned although it was not full',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: /early\?\.\[0\]\?\.isFull \? early/g,
    by: 'early ? early',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'a publisher whose acknowledgement was lost reads on under the same epoch',
    file: 'libs/events/src/event-consumer.ts',
    replace: /this\.mustLetGo = true;/g,
    by: '',
    caughtBy: 'libs/events/test/event-consumer',
  },
  {
    bug: 'a consumer that lost its lease on a part still moves the checkpoint',
    file: 'libs/events/src/checkpoints.ts',
    replace: / AND c\.epoch = m\.epoch AND c\.lease_until > now\(\)/g,
    by: '',
    caughtBy: 'libs/events/test/checkpoints',
  },
  {
    bug: 'sales are counted without moving the checkpoint',
    file: 'libs/sales/migrations/1-sales.ts',
    replace: /PERFORM sales\.advance_parts\(p_consumer, p_parts, p_epochs, p_positions\);/g,
    by: '',
    caughtBy: 'libs/sales/test/follow-orders',
  },
  {
    bug: 'a refund is not stored before the provider is called',
    file: 'libs/payment/migrations/1-payments.ts',
    replace: /d\.kind = 'refund' AND d\.state = 'open' THEN d\.amount/g,
    by: "d.kind = 'refund' THEN 0",
    also: { replace: /refunding_minor = p\.refunding_minor - s\.no_longer_refunding,/g, by: '' },
    caughtBy: 'libs/payment/test/payments',
  },
  {
    bug: 'a reversal does not fence off later authorisations',
    file: 'libs/payment/migrations/1-payments.ts',
    replace: /reversed = p\.reversed OR d\.asked = 'reverse'/g,
    by: 'reversed = p.reversed',
    caughtBy: 'libs/payment/test/payments',
  },
  {
    bug: 'a saga is advanced although another process has taken it over',
    file: 'libs/order/migrations/4-event-log.ts',
    replace: / AND w\.epoch = s\.epoch/g,
    by: '',
    also: {
      replace: /AND o\.version = f\.order_version AND \(f\.from_status IS NULL OR o\.status = f\.from_status\)/g,
      by: '',
    },
    caughtBy: 'test/fault/sagas',
  },
  {
    bug: 'the event of a confirmation is not written in its transaction',
    file: 'libs/order/migrations/4-event-log.ts',
    replace: /traceparent FROM changed\n/g,
    by: "traceparent FROM changed WHERE entry <> 'payment-authorised'\n",
    caughtBy: 'test/fault/sagas',
  },
  {
    bug: 'a branch in doubt is rolled back without a recorded decision',
    file: 'libs/order/src/use-cases/finish-branches.ts',
    replace: /const decision = await this\.decisions\.decide\(branchId\);/g,
    by: "const decision = branchId === '' ? 'commit' : 'abort';",
    caughtBy: 'test/fault/two-phase',
  },
  {
    bug: 'a transaction stays open during a call to inventory',
    file: 'libs/order/src/use-cases/reserve-and-record.ts',
    replace: /this\.stock\.reserve\(tenant, requestsOf\(tries\), branchId\)/g,
    by: '(this.orders as any).sql.transaction(() => this.stock.reserve(tenant, requestsOf(tries), branchId))',
    caughtBy: 'test/fault/locks',
  },
  {
    bug: 'each order leaks ten kilobytes of memory',
    file: 'libs/order/src/use-cases/place-order.ts',
    replace: /annotateWork\(\{ tenant,/g,
    by: '((globalThis as any).left ??= []).push(Array(1280).fill(7)); annotateWork({ tenant,',
    caughtBy: 'test/fault/memory',
  },
  {
    bug: 'a conditional refund that had to wait checks the state from before',
    file: 'libs/order/src/adapters/postgres-sagas.ts',
    replace: /p\.data->>'moving' IS NOT DISTINCT FROM/g,
    by: "'' IS DISTINCT FROM",
    caughtBy: 'libs/order/test/sagas',
  },
  {
    bug: 'a webhook delivery is settled although another worker has taken it over',
    file: 'libs/webhooks/src/adapters/postgres-deliveries.ts',
    replace: / AND epoch = \$3 AND status/g,
    by: ' AND $3::bigint > 0 AND status',
    caughtBy: 'libs/webhooks/test/deliveries',
  },
  {
    bug: 'concurrent webhooks to one endpoint are not limited',
    file: 'libs/webhooks/src/adapters/postgres-deliveries.ts',
    replace: /LIMIT coalesce\(x\.slots, \$3\)/g,
    by: 'LIMIT coalesce(x.slots, $3) + 20',
    caughtBy: 'libs/webhooks/test/deliveries',
  },
  {
    bug: 'an event that is accepted twice is delivered twice as a webhook',
    file: 'libs/webhooks/migrations/1-webhooks.ts',
    replace: /CREATE UNIQUE INDEX one_delivery/g,
    by: 'CREATE INDEX one_delivery',
    caughtBy: 'libs/webhooks/test/deliveries',
  },
  {
    bug: 'a webhook is sent to a host name if any of its addresses is public',
    file: 'libs/webhooks/src/adapters/address-guard.ts',
    replace: /addresses\.every\(/g,
    by: 'addresses.some(',
    caughtBy: 'libs/webhooks/test/sending',
  },
  {
    bug: 'a webhook is signed with an expired secret',
    file: 'libs/webhooks/src/adapters/postgres-deliveries.ts',
    replace: /WHERE it->>'until' IS NULL OR \(it->>'until'\)::timestamptz > now\(\)/g,
    by: '',
    caughtBy: 'libs/webhooks/test/deliveries',
  },
  {
    bug: 'a read from a server that has become a standby is returned',
    file: 'libs/database/src/sql.ts',
    replace: /if \(!server!\.isStandby\) return read;/g,
    by: 'if (server) return read;',
    caughtBy: 'test/fault/replicated',
  },
  {
    bug: 'the cache stores a value that was loaded under a lease taken over by another process',
    file: 'libs/cache-engine/src/scripts.ts',
    replace: / or redis\.call\('GET', lease\) ~= first then return 0 end\n(?=\s*return store)/g,
    by: ' then return 0 end\n',
    caughtBy: 'libs/cache-engine/test/model',
  },
  {
    bug: 'a value that is invalidated while it is read from Redis is kept in L1',
    file: 'libs/cache-engine/src/guarded.ts',
    replace: /(?<=return this\.marked === 0) \|\| mark < [^;]*;/g,
    by: ';',
    caughtBy: 'libs/cache-engine/test/model',
  },
  {
    bug: 'a value lives longer in L1 than in Redis',
    file: 'libs/cache-engine/src/keyspace.ts',
    replace: /Math\.floor\(freshUntil - this\.tiers\.clockAheadMs\)/g,
    by: 'Math.floor(freshUntil - this.tiers.clockAheadMs) + 2_000',
    caughtBy: 'libs/cache-engine/test/model',
  },
  {
    bug: 'a process ignores invalidations reported by Redis',
    file: 'libs/cache-engine/src/tiers.ts',
    replace: /this\.entries\.invalidate\(name\);/g,
    by: '',
    caughtBy: 'libs/cache-engine/test/model',
  },
  {
    bug: 'the version of a cached value is reused',
    file: 'libs/cache-engine/src/keyspace.ts',
    replace: /versionCount\+\+/g,
    by: 'versionCount++ % 100',
    caughtBy: 'libs/cache-engine/test/model',
  },
  {
    bug: 'callers join a load that was invalidated after it began',
    file: 'libs/cache-engine/src/tiers.ts',
    replace: /if \(!flight\?\.guard\.isIntact \|\| !flight\.tagGuards\.every\(\(it\) => it\.isIntact\)\)/g,
    by: 'if (!flight)',
    caughtBy: 'libs/cache-engine/test/model',
  },
  {
    bug: 'the cache serves values from L1 while one of several masters does not answer',
    file: 'libs/cache-engine/src/tracking.ts',
    replace: /Math\.min\(\.\.\.heardAt\)/g,
    by: 'Math.max(...heardAt)',
    caughtBy: 'libs/cache-engine/test/redis',
  },
  {
    bug: "Nest's own TCP server answers too, bypassing the contract",
    file: 'libs/messaging/src/tcp-server.ts',
    replace: /else super\.addHandler/g,
    by: 'super.addHandler',
    caughtBy: 'libs/messaging/test/messaging',
  },
  {
    bug: 'a call that is not idempotent is retried although it may have been carried out',
    file: 'libs/balancing/src/targets.ts',
    replace: /\(outcome === 'lost' && this\.mayRepeat\)/g,
    by: "outcome === 'lost'",
    caughtBy: 'libs/messaging/test/messaging',
  },
  {
    bug: 'a call over Redis that a dead instance had read is repeated although it is not idempotent',
    file: 'libs/messaging/src/redis-reader.ts',
    replace: /\(isInherited \|\| this\.isOfOtherServer\(meta\)\)/g,
    by: 'this.isOfOtherServer(meta)',
    caughtBy: 'libs/messaging/test/redis',
  },
  {
    bug: 'a call over Redis is carried out again by a new primary although it is not idempotent',
    file: 'libs/messaging/src/redis-reader.ts',
    replace: /\(isInherited \|\| this\.isOfOtherServer\(meta\)\)/g,
    by: 'isInherited',
    caughtBy: 'libs/messaging/test/redis',
  },
  {
    bug: 'orders accept another database of inventory',
    file: 'libs/order/src/adapters/messaging-stock.ts',
    replace: /kept !== inventoryId/g,
    by: "kept === ''",
    caughtBy: 'libs/order/test/messaging-stock',
  },
  {
    bug: 'a call over Redis counts as late after Redis was frozen',
    file: 'libs/messaging/src/redis-reader.ts',
    replace: /if \(this\.clockOffsetMs < least \|\| this\.clockOffsetMs > most\) /g,
    by: '',
    caughtBy: 'libs/messaging/test/redis',
  },
  {
    bug: 'a draining instance does not wait for busy callers',
    file: 'libs/messaging/src/tcp-server.ts',
    replace: /const goodbyeMs = 1_000;/g,
    by: 'const goodbyeMs = 0;',
    caughtBy: 'libs/messaging/test/balancing',
  },
  {
    bug: 'an instance that fails goes on reading its queue',
    file: 'libs/messaging/src/redis-reader.ts',
    replace: /this\.ejection\.state === 'ejected' && !this\.isAlone/g,
    by: 'false',
    caughtBy: 'libs/messaging/test/messaging',
  },
  {
    bug: 'nobody takes requests over NATS while all instances fail',
    file: 'libs/messaging/src/nats-route.ts',
    replace: /at !== lastResort/g,
    by: 'at !== undefined',
    caughtBy: 'libs/messaging/test/messaging',
  },
  {
    bug: 'calls over Redis that time out stay in memory',
    file: 'libs/messaging/src/redis-route.ts',
    replace: /return \(\) => this\.waiting\.take\(id\);/g,
    by: 'return () => undefined;',
    caughtBy: 'libs/messaging/test/faults',
  },
  {
    bug: "calls leave listeners on their callers' signals",
    file: 'libs/messaging/src/client.ts',
    replace: /signal\?\.removeEventListener\('abort', giveUp\);/g,
    by: '',
    caughtBy: 'libs/messaging/test/faults',
  },
  {
    bug: 'calls end long after their deadline',
    file: 'libs/messaging/src/client.ts',
    replace: /(?<=Math\.round\(allowedMs\)\)\), )allowedMs\)/g,
    by: '2 * allowedMs + 2_000)',
    caughtBy: 'libs/messaging/test/faults',
  },
];

const root = resolve(import.meta.dirname, '..');

/** The text of the file with the bug in it. */
const withBug = ({ bug, file, ...first }) =>
  [first, first.also].filter(Boolean).reduce(
    (text, { replace, by }) => {
      const changed = text.replaceAll(replace, by);
      if (changed === text) throw new Error(`${file} has changed: adapt the bug "${bug}" in scripts/seeded-bugs.mjs`);
      return changed;
    },
    readFileSync(join(root, file), 'utf8'),
  );

const readArguments = () => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { list: { type: 'boolean' }, fit: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
    });
  } catch (error) {
    console.error(`${error.message}\n\n${usage}`);
    process.exit(2);
  }
};
const { values, positionals } = readArguments();
const word = positionals.join(' ');
const bugs = all.filter(({ bug }) => bug.includes(word));
if (values.help) {
  process.stdout.write(usage);
  process.exit();
}
if (values.list) {
  for (const { bug } of bugs) console.log(bug);
  process.exit();
}
for (const it of all) withBug(it);
if (values.fit) process.exit();
// Without a name jest would run all tests, and every bug would count as caught.
if (bugs.length === 0) {
  console.error(`No bug has "${word}" in its description. \`npm run test:bugs -- --list\` lists them.`);
  process.exit(1);
}
const copy = mkdtempSync(join(tmpdir(), 'cleave-bugs-'));
const ignored = new Set(['node_modules', 'dist', '.git', '.data'].map((name) => join(root, name)));
cpSync(root, copy, { recursive: true, filter: (path) => !ignored.has(path) });
symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));

const run = (...args) => spawnSync('npm', ['run', '--silent', ...args], { cwd: copy, stdio: 'ignore' }).status === 0;

const passes = (...tests) => {
  // Some tests run the compiled code. Compiler errors do not count as a catch.
  run('build');
  // What searches at random searches for longer than usual, so that no bug is missed by bad luck.
  return run('jest', '--', ...tests, '--globals', JSON.stringify({ longSearch: true }));
};

// Tests that fail without a bug would seem to catch every one.
if (!passes(...new Set(bugs.map(({ caughtBy }) => caughtBy)))) throw new Error('the tests fail without any bug');

const missed = bugs.filter((it) => {
  const { bug, file, caughtBy } = it;
  const path = join(copy, file);
  const whole = readFileSync(path, 'utf8');
  writeFileSync(path, withBug(it));
  const isMissed = passes(caughtBy);
  writeFileSync(path, whole);
  console.log(`${isMissed ? 'MISSED' : 'caught'}  ${bug} (${caughtBy})`);
  return isMissed;
});
rmSync(copy, { recursive: true, force: true });
if (missed.length > 0) process.exitCode = 1;
