import { afterAll, beforeAll, expect, it } from '@jest/globals';
import pg from 'pg';
import { limits } from '#contracts';
import { twoInstances, type TwoInstances } from '#testing';
import { PostgresStock } from '../src/adapters/postgres-stock.js';
import { PurgeRefusals, keptMs } from '../src/use-cases/purge-refusals.js';
import {
  brokenInvariants,
  effect,
  fillOnePart,
  longHoldMs,
  newTenant,
  outcomes,
  reservation,
  startInstance,
  stocked,
  untilBlocked,
  type Instance,
} from './inventory-under-test.js';

let instances: TwoInstances<Instance>;
/** Two instances on one database, which purge at the same time. */
let one: Instance;
let two: Instance;

beforeAll(async () => {
  instances = await twoInstances(startInstance);
  ({ one, two } = instances);
});

afterAll(() => instances?.stop());

/** Makes these reservations older. */
const age = (tenant: string, reservationIds: readonly string[], ms: number): Promise<unknown> =>
  one.sql.query(
    {
      name: 'test-age-reservations',
      text: `
        UPDATE inventory.reservations SET deadline_at = deadline_at - $3::bigint * interval '1 millisecond'
        WHERE tenant_id = $1 AND reservation_id = ANY ($2)`,
    },
    [tenant, reservationIds, ms],
  );
const idsOf = (reservations: readonly { reservation_id: string }[]): string[] =>
  reservations.map((it) => it.reservation_id);

it('old refusals are purged, even by two instances at once, and decided anew', async () => {
  const tenant = newTenant();
  await stocked(one, tenant, { mug: 1 });
  // More than are deleted in one batch.
  const old = Array.from({ length: 1_500 }, () => reservation({ mug: 2 }));
  const young = [reservation({ mug: 2 })];
  const refused = Array.from(old, () => 'out-of-stock');
  expect(await outcomes(one, tenant, old.slice(0, 1_000))).toEqual(refused.slice(0, 1_000));
  expect(await outcomes(one, tenant, old.slice(1_000))).toEqual(refused.slice(1_000));
  expect(await outcomes(one, tenant, young)).toEqual(['out-of-stock']);
  await age(tenant, idsOf(old), keptMs + longHoldMs);
  await age(tenant, idsOf(young), keptMs - 60_000);
  await Promise.all([one.purgeRefusals.execute(), two.purgeRefusals.execute()]);

  await stocked(one, tenant, { mug: 1_000_000 });
  expect(await outcomes(one, tenant, young)).toEqual(['out-of-stock']);
  expect(new Set(await outcomes(one, tenant, old.slice(0, 1_000)))).toEqual(new Set(['held']));
  expect(new Set(await outcomes(one, tenant, old.slice(1_000)))).toEqual(new Set(['held']));
  expect(await brokenInvariants(one, tenant)).toEqual([]);
});

it('a refusal is forgotten before order forgets it, however long the hold was to last', async () => {
  const tenant = newTenant();
  await stocked(one, tenant, { mug: 1 });
  const longest = reservation({ mug: 2 });
  expect(await outcomes(one, tenant, [longest], 24 * 3_600_000)).toEqual(['out-of-stock']);
  await age(tenant, idsOf([longest]), limits.refusalKeptMs - 2 * 3_600_000);
  await new PurgeRefusals(new PostgresStock(one.sql)).execute();
  await stocked(one, tenant, { mug: 2 });
  expect(await outcomes(one, tenant, [longest])).toEqual(['held']);
});

it('decisions on reservations that were held are never purged, because they fence late retries', async () => {
  const tenant = newTenant();
  await stocked(one, tenant, { mug: 10 });
  const kept = Array.from({ length: 4 }, () => reservation({ mug: 1 }));
  await outcomes(one, tenant, kept);
  const [, confirmed, fulfilled, released] = idsOf(kept);
  await one.settleStock.execute(tenant, [
    effect(confirmed!, 1, 'confirm'),
    effect(fulfilled!, 1, 'confirm'),
    effect(fulfilled!, 2, 'fulfil', { mug: 1 }),
    effect(released!, 1, 'release'),
  ]);
  await age(tenant, idsOf(kept), keptMs + longHoldMs);
  await one.purgeRefusals.execute();
  expect(await outcomes(one, tenant, kept)).toEqual(['held', 'held', 'held', 'released']);
  expect(await brokenInvariants(one, tenant)).toEqual([]);
});

it('a purge continues where the previous one stopped, and still finds refusals that became old since', async () => {
  const tenant = newTenant();
  await stocked(one, tenant, { mug: 1 });
  const tries = [reservation({ mug: 2 }), reservation({ mug: 2 })];
  await outcomes(one, tenant, tries);
  for (const it of tries) {
    await age(tenant, [it.reservation_id], keptMs + longHoldMs);
    await one.purgeRefusals.execute();
  }
  await stocked(one, tenant, { mug: 10 });
  expect(await outcomes(one, tenant, tries)).toEqual(['held', 'held']);
});

it('a purge finds old refusals beyond the first part of a large table', async () => {
  const tenant = newTenant();
  await stocked(one, tenant, { mug: 1 });
  await fillOnePart(one);
  const old = Array.from({ length: 20 }, () => reservation({ mug: 2 }));
  await outcomes(one, tenant, old);
  await age(tenant, idsOf(old), keptMs + longHoldMs);
  await new PurgeRefusals(new PostgresStock(one.sql)).execute();
  await stocked(one, tenant, { mug: 100 });
  expect(new Set(await outcomes(one, tenant, old))).toEqual(new Set(['held']));
});

it('a refusal that is purged while its batch is decided is decided anew, without mixing up the decisions', async () => {
  const tenant = newTenant();
  await stocked(one, tenant, { mug: 1, cup: 100, pen: 100 });
  const old = reservation({ mug: 2 }, { reservation_id: '00000000-0000-4000-8000-000000000001' });
  const earlier = reservation({ pen: 1 }, { reservation_id: '00000000-0000-4000-8000-000000000003' });
  const tooMany = reservation({ cup: 1_000 }, { reservation_id: 'ffffffff-0000-4000-8000-000000000002' });
  const last = reservation({ cup: 1 }, { reservation_id: 'ffffffff-0000-4000-8000-000000000003' });
  expect(await outcomes(one, tenant, [old, earlier])).toEqual(['out-of-stock', 'held']);
  await age(tenant, [old.reservation_id], keptMs + longHoldMs);
  await stocked(one, tenant, { mug: 50 });

  // Another writer holds the last reservation, so the batch waits there after it has found the others.
  const [other, watcher] = [new pg.Client(instances.url), new pg.Client(instances.url)];
  await Promise.all([other.connect(), watcher.connect()]);
  try {
    await other.query('BEGIN');
    await other.query(
      `INSERT INTO inventory.reservations (tenant_id, reservation_id, order_id, state, held, deadline_at)
       VALUES ($1, $2, $2, 'held', '{}', now() + interval '1 hour')`,
      [tenant, last.reservation_id],
    );
    const deciding = one.reserveStock.execute(tenant, {
      reservations: [old, earlier, tooMany, last],
      hold_ms: longHoldMs,
    });
    await untilBlocked(watcher, 1);
    await two.purgeRefusals.execute();
    await other.query('ROLLBACK');
    const { decisions } = await deciding;
    expect(decisions).toEqual([
      { outcome: 'held', order_id: old.order_id },
      { outcome: 'held', order_id: earlier.order_id },
      expect.objectContaining({ outcome: 'out-of-stock' }),
      { outcome: 'held', order_id: last.order_id },
    ]);
  } finally {
    await Promise.all([other.end(), watcher.end()]);
  }
  expect(await brokenInvariants(one, tenant)).toEqual([]);
});
