import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { limits } from '#contracts';
import { twoInstances, type TwoInstances } from '#testing';
import {
  brokenInvariants,
  effect,
  longHoldMs,
  newTenant,
  outcomes,
  reservation,
  startInstance,
  stocked,
  type Instance,
} from './inventory-under-test.js';

let instances: TwoInstances<Instance>;
/** Two instances on one database, as purge at the same time. */
let one: Instance;
let two: Instance;

beforeAll(async () => {
  instances = await twoInstances(startInstance);
  ({ one, two } = instances);
});

afterAll(() => instances?.stop());

/** Lets the time go by since a reservation was tried. */
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

it('forgets refusals of long ago, whoever goes for them at the same time, and decides them anew', async () => {
  const tenant = newTenant();
  await stocked(one, tenant, { mug: 1 });
  // More than are forgotten at once.
  const old = Array.from({ length: 1_500 }, () => reservation({ mug: 2 }));
  const young = [reservation({ mug: 2 })];
  const refused = Array.from(old, () => 'out-of-stock');
  expect(await outcomes(one, tenant, old.slice(0, 1_000))).toEqual(refused.slice(0, 1_000));
  expect(await outcomes(one, tenant, old.slice(1_000))).toEqual(refused.slice(1_000));
  expect(await outcomes(one, tenant, young)).toEqual(['out-of-stock']);
  await age(tenant, idsOf(old), limits.refusalKeptMs + longHoldMs);
  await age(tenant, idsOf(young), limits.refusalKeptMs - 60_000);
  await Promise.all([one.purgeRefusals.execute(), two.purgeRefusals.execute()]);

  await stocked(one, tenant, { mug: 1_000_000 });
  expect(await outcomes(one, tenant, young)).toEqual(['out-of-stock']);
  expect(new Set(await outcomes(one, tenant, old.slice(0, 1_000)))).toEqual(new Set(['held']));
  expect(new Set(await outcomes(one, tenant, old.slice(1_000)))).toEqual(new Set(['held']));
  expect(await brokenInvariants(one, tenant)).toEqual([]);
});

it('never forgets what was held, however long ago: it fences tries that come late', async () => {
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
  await age(tenant, idsOf(kept), limits.refusalKeptMs + longHoldMs);
  await one.purgeRefusals.execute();
  expect(await outcomes(one, tenant, kept)).toEqual(['held', 'held', 'held', 'released']);
  expect(await brokenInvariants(one, tenant)).toEqual([]);
});

it('goes on from where it was, and still finds what has become old since', async () => {
  const tenant = newTenant();
  await stocked(one, tenant, { mug: 1 });
  const tries = [reservation({ mug: 2 }), reservation({ mug: 2 })];
  await outcomes(one, tenant, tries);
  for (const it of tries) {
    await age(tenant, [it.reservation_id], limits.refusalKeptMs + longHoldMs);
    await one.purgeRefusals.execute();
  }
  await stocked(one, tenant, { mug: 10 });
  expect(await outcomes(one, tenant, tries)).toEqual(['held', 'held']);
});
