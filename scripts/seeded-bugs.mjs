// Tests the tests: plants one bug after the other into a copy of the sources, and runs the tests that must catch it. A bug
// that no test catches, or that no longer fits the source, fails the run. `npm run test:bugs` runs all; `-- saga` selects
// those with that word in their description, and `--fit` only checks that all still fit.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

/** Each replaces a text in one file, everywhere it occurs. */
const all = [
  {
    bug: 'products are not locked before it is decided on their stock',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /\n\s*ORDER BY p\.product_id\n\s*FOR NO KEY UPDATE\n/g,
    by: '\n',
    caughtBy: 'libs/inventory/test/concurrency',
  },
  {
    bug: 'reservations are taken in the order in which they are asked for',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /\n\s*ORDER BY r\.id(?=\n\s*ON CONFLICT DO NOTHING\n\s*RETURNING reservation_id)/g,
    by: '',
    caughtBy: 'libs/inventory/test/concurrency',
  },
  {
    bug: 'a key may have several orders',
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
    bug: 'a hold is released although its order was recorded while that was looked up',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /decided\.get\(it\) === 'void'/g,
    by: "decided.has(it) && (known.get(it) ?? 'void') === 'void'",
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'the stock is told only after the checkpoint has moved',
    file: 'libs/order/src/use-cases/relay-outbox.ts',
    replace: /const left = \[\.\.\.Map\.groupBy/g,
    by: 'await checkpoint.keep(); const left = [...Map.groupBy',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'an order is acknowledged before it is recorded',
    file: 'libs/order/src/use-cases/reserve-and-record.ts',
    replace: /const recorded = await this\.endingOnFailure\(/g,
    by: 'for (const { it, record } of held) results.set(it.placement, { order: record.order, replayed: false }); $&',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'a change is made whatever has become of the order since it was read',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /AND version = \$3 AND/g,
    by: 'AND $3::int > 0 AND',
    caughtBy: 'test/fault/interleavings',
  },
  {
    bug: 'what was handed over is paid back where the rest is cancelled',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /\$4 = 'cancelled'/g,
    by: "$8 = 'cancelled'",
    caughtBy: 'libs/order/test/sagas',
  },
  {
    bug: 'an effect is applied as often as it is delivered',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /CONTINUE WHEN settled >= p_versions\[effect\];/g,
    by: '',
    caughtBy: 'libs/inventory/test/stock',
  },
  {
    bug: 'decisions shift where an old refusal is forgotten while it is repeated',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /EXIT WHEN cardinality\(orders\) = reservation_count;/g,
    by: 'EXIT;',
    caughtBy: 'libs/inventory/test/purge-refusals',
  },
  {
    bug: 'a confirmation of what is still prepared is lost',
    file: 'libs/inventory/migrations/1-products-and-stock.ts',
    replace: /SELECT p_tenant, m\.id, 'released'/g,
    by: "SELECT p_tenant || ' not', m.id, 'released'",
    caughtBy: 'libs/inventory/test/finish-branches',
  },
  {
    bug: 'a look for overdue holds counts as one for what was not to be seen yet',
    file: 'libs/inventory/src/adapters/postgres-stock.ts',
    replace: /SELECT least\(now\(\),[^`]* AS looked_at/g,
    by: 'SELECT now() AS looked_at',
    caughtBy: 'libs/inventory/test/finish-branches',
  },
  {
    bug: 'orders are recorded on a branch whose abort may be forgotten',
    file: 'libs/order/src/adapters/postgres-orders.ts',
    replace: /THEN 'late' ELSE 'commit' END/g,
    by: "THEN 'commit' ELSE 'commit' END",
    caughtBy: 'libs/order/test/finish-branches',
  },
  {
    bug: 'what is sealed of a person is not bound to the order',
    file: 'libs/order/src/use-cases/customer-keys.ts',
    replace: /\['order', tenant, orderId\]/g,
    by: "['order', tenant]",
    caughtBy: 'libs/order/test/personal-data',
  },
  {
    bug: 'what an order tells of a person is in its fingerprint',
    file: 'libs/order/src/domain/placement.ts',
    replace: /\['personal'\]/g,
    by: '[JSON.stringify(rest.personal)]',
    caughtBy: 'libs/order/test/personal-data',
  },
  {
    bug: 'the key of a customer is not asked for again once it is known',
    file: 'libs/order/src/use-cases/keep-personal-data.ts',
    replace: /const kept = await this\.keys\.keysOf\(tenant, customerIds\);/g,
    by: 'const kept = ((this as any).known ??= await this.keys.keysOf(tenant, customerIds)) as ReadonlyMap<string, WrappedKey>;',
    caughtBy: 'libs/order/test/personal-data',
  },
  {
    bug: 'the secret of a webhook is not bound to its endpoint',
    file: 'libs/webhooks/src/use-cases/keep-secrets.ts',
    replace: /\['webhook secret', tenant, endpointId\]/g,
    by: "['webhook secret', tenant, endpointId.slice(0, 0)]",
    caughtBy: 'libs/webhooks/test/secrets',
  },
  {
    bug: 'a repeat makes a key for a customer who was erased',
    file: 'libs/order/src/use-cases/reserve-and-record.ts',
    replace: /!keys\.has\(it\.command\.customerId\) \|\| faultOf\(it\)/g,
    by: 'faultOf(it)',
    caughtBy: 'libs/order/test/personal-data',
  },
  {
    bug: 'who does what is written down only once it is done',
    file: 'libs/rest/src/audit.ts',
    replace: /const written = authenticator\.auditLog!\.append\(entry\);/g,
    by: 'const written = Promise.resolve();',
    caughtBy: 'libs/access/test/audit',
  },
  {
    bug: 'the stock passes over events of transactions that still run',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: / AND e\.xid < \$\{horizon\}(?=\s+ORDER BY e\.xid, e\.id LIMIT \$3`)/g,
    by: '',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'the feed of a tenant passes over events of transactions that still run',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: /(?<=e\.tenant_id <= \$1) AND e\.xid < \$\{horizon\}/g,
    by: '',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'the log passes over events of transactions that still run',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: / AND xid < \$\{horizon\}(?=\s+ORDER BY xid DESC)/g,
    by: '',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'full pages of the log pass over events of transactions that still run',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: / AND xid < \$\{horizon\}(?=\s+ORDER BY xid, id OFFSET \$3::bigint - 1 LIMIT 1\)\n)/g,
    by: '',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'a page that was read ahead is told although it was not full',
    file: 'libs/order/src/adapters/postgres-outbox.ts',
    replace: /early\?\.\[0\]\?\.isFull \? early/g,
    by: 'early ? early',
    caughtBy: 'libs/order/test/outbox',
  },
  {
    bug: 'who has heard nothing of what it sent goes on reading under the same epoch',
    file: 'libs/events/src/event-consumer.ts',
    replace: /this\.mustLetGo = true;/g,
    by: '',
    caughtBy: 'libs/events/test/event-consumer',
  },
  {
    bug: 'who has lost a part of the log still moves its checkpoint',
    file: 'libs/events/src/checkpoints.ts',
    replace: / AND c\.epoch = m\.epoch AND c\.lease_until > now\(\)/g,
    by: '',
    caughtBy: 'libs/events/test/checkpoints',
  },
  {
    bug: 'events are counted without their checkpoint',
    file: 'libs/sales/migrations/1-sales.ts',
    replace: /PERFORM sales\.advance_parts\(p_consumer, p_parts, p_epochs, p_positions\);/g,
    by: '',
    caughtBy: 'libs/sales/test/follow-orders',
  },
  {
    bug: 'a refund is not set aside before the provider is asked',
    file: 'libs/payment/migrations/1-payments.ts',
    replace: /d\.kind = 'refund' AND d\.state = 'open' THEN d\.amount/g,
    by: "d.kind = 'refund' THEN 0",
    also: { replace: /refunding_minor = p\.refunding_minor - s\.no_longer_refunding,/g, by: '' },
    caughtBy: 'libs/payment/test/payments',
  },
  {
    bug: 'a reversal leaves no fence for what comes after it',
    file: 'libs/payment/migrations/1-payments.ts',
    replace: /reversed = p\.reversed OR d\.asked = 'reverse'/g,
    by: 'reversed = p.reversed',
    caughtBy: 'libs/payment/test/payments',
  },
  {
    bug: 'a saga is moved whoever has taken it over',
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
    bug: 'a confirmation is not announced in its transaction',
    file: 'libs/order/migrations/4-event-log.ts',
    replace: /traceparent FROM changed\n/g,
    by: "traceparent FROM changed WHERE entry <> 'payment-authorised'\n",
    caughtBy: 'test/fault/sagas',
  },
  {
    bug: 'what is in doubt is rolled back without a decision',
    file: 'libs/order/src/use-cases/finish-branches.ts',
    replace: /const decision = await this\.decisions\.decide\(branchId\);/g,
    by: "const decision = branchId === '' ? 'commit' : 'abort';",
    caughtBy: 'test/fault/two-phase',
  },
  {
    bug: 'a transaction stays open while inventory is asked',
    file: 'libs/order/src/use-cases/reserve-and-record.ts',
    replace: /this\.stock\.reserve\(tenant, requestsOf\(tries\), branchId\)/g,
    by: '(this.orders as any).sql.transaction(() => this.stock.reserve(tenant, requestsOf(tries), branchId))',
    caughtBy: 'test/fault/locks',
  },
  {
    bug: 'each order leaves ten kilobytes behind',
    file: 'libs/order/src/use-cases/place-order.ts',
    replace: /noteOfWork\(\{ tenant,/g,
    by: '((globalThis as any).left ??= []).push(Array(1280).fill(7)); noteOfWork({ tenant,',
    caughtBy: 'test/fault/memory',
  },
  {
    bug: 'whoever has waited to move money on a condition goes by what was before',
    file: 'libs/order/src/adapters/postgres-sagas.ts',
    replace: /p\.data->>'moving' IS NOT DISTINCT FROM/g,
    by: "'' IS DISTINCT FROM",
    caughtBy: 'libs/order/test/sagas',
  },
  {
    bug: 'a webhook is settled whoever has taken it over',
    file: 'libs/webhooks/src/adapters/postgres-deliveries.ts',
    replace: / AND epoch = \$3 AND status/g,
    by: ' AND $3::bigint > 0 AND status',
    caughtBy: 'libs/webhooks/test/deliveries',
  },
  {
    bug: 'webhooks are sent to an endpoint as they come, however many it has not answered',
    file: 'libs/webhooks/src/adapters/postgres-deliveries.ts',
    replace: /LIMIT coalesce\(x\.slots, \$3\)/g,
    by: 'LIMIT coalesce(x.slots, $3) + 20',
    caughtBy: 'libs/webhooks/test/deliveries',
  },
  {
    bug: 'a webhook is delivered again where its event is accepted again',
    file: 'libs/webhooks/migrations/1-webhooks.ts',
    replace: /CREATE UNIQUE INDEX one_delivery/g,
    by: 'CREATE INDEX one_delivery',
    caughtBy: 'libs/webhooks/test/deliveries',
  },
  {
    bug: 'a webhook is sent where a name leads, if that has one public address',
    file: 'libs/webhooks/src/adapters/address-guard.ts',
    replace: /addresses\.every\(/g,
    by: 'addresses.some(',
    caughtBy: 'libs/webhooks/test/sending',
  },
  {
    bug: 'a webhook is signed with a secret that has run out',
    file: 'libs/webhooks/src/adapters/postgres-deliveries.ts',
    replace: /WHERE it->>'until' IS NULL OR \(it->>'until'\)::timestamptz > now\(\)/g,
    by: '',
    caughtBy: 'libs/webhooks/test/deliveries',
  },
  {
    bug: 'what was read on a server that is a standby is told',
    file: 'libs/database/src/sql.ts',
    replace: /if \(!server!\.isStandby\) return read;/g,
    by: 'if (server) return read;',
    caughtBy: 'test/fault/replicated',
  },
  {
    bug: 'a cache keeps what was loaded under a lease that another one has taken over',
    file: 'libs/cache-engine/src/scripts.ts',
    replace: / or redis\.call\('GET', lease\) ~= first then return 0 end\n(?=\s*return store)/g,
    by: ' then return 0 end\n',
    caughtBy: 'libs/cache-engine/test/redis',
  },
  {
    bug: 'a cache gives out what it has while one of several masters is not heard of',
    file: 'libs/cache-engine/src/tracking.ts',
    replace: /Math\.min\(\.\.\.heardAt\)/g,
    by: 'Math.max(...heardAt)',
    caughtBy: 'libs/cache-engine/test/redis',
  },
  {
    bug: 'Nest answers over TCP as well, past the contract',
    file: 'libs/messaging/src/tcp-server.ts',
    replace: /else super\.addHandler/g,
    by: 'super.addHandler',
    caughtBy: 'libs/messaging/test/messaging',
  },
];

const root = resolve(import.meta.dirname, '..');

/** The text of the file with the bug in it. */
const withBug = ({ bug, file, ...first }) =>
  [first, first.also].filter(Boolean).reduce(
    (text, { replace, by }) => {
      const changed = text.replaceAll(replace, by);
      if (changed === text) throw new Error(`${file} has changed: write the bug anew (${bug})`);
      return changed;
    },
    readFileSync(join(root, file), 'utf8'),
  );

for (const it of all) withBug(it);
if (process.argv[2] === '--fit') process.exit();

const [, , word = ''] = process.argv;
const bugs = all.filter(({ bug }) => bug.includes(word));
// Without a name jest would run all tests, and every bug would count as caught.
if (bugs.length === 0) {
  console.error(`No bug has "${word}" in its description. They are:\n${all.map(({ bug }) => `  ${bug}`).join('\n')}`);
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
  return run('jest', '--', ...tests);
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
