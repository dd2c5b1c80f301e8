import { globSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually, orSkip } from '#testing';
import { Api } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';
import { Shoppers } from './shoppers.js';

/** libfaketime shifts the wall clock of a process by the offset in a file, which may change at any time. */
const [library] = globSync('/usr/lib/*/faketime/libfaketime.so.1');
const describeWithFaketime = orSkip(
  library !== undefined,
  describe,
  'There is no libfaketime for the tests: install it (apt-get install faketime)',
);

describeWithFaketime('clock jumps under load', () => {
  let folder: string;
  let shape: ProxiedShape;
  const shiftBy = (offset: string): Promise<void> => writeFile(join(folder, 'shift'), offset);

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'clock-'));
    await shiftBy('+0');
    // For the apps only; Postgres keeps the real time.
    shape = await startProxied('split', {
      LD_PRELOAD: library!,
      FAKETIME_TIMESTAMP_FILE: join(folder, 'shift'),
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    });
  });
  afterAll(async () => {
    await shape?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  it('satisfy the invariants in both directions, and deliver no event that has not happened', async () => {
    const api = new Api(shape.baseUrl);
    const receiver = await WebhookReceiver.start(api, await shape.databaseUrls());
    const shoppers = new Shoppers(api, randomOf('clocks'));
    await shoppers.start();
    const placed = (): number => shoppers.placements.filter((it) => it.outcome === 201).length;
    const createdAt: number[] = [];
    for (const offset of ['+2h', '-3h', '+40d', '+0']) {
      const before = placed();
      await shoppers.until(() => placed() > before + 10);
      await shiftBy(offset);
      // Requests in flight during the jump may miss their deadline, so they are retried.
      const product_id = await eventually(() => api.product());
      const order = await eventually(() => api.placed({ customer_id: 'c', product_id, quantity: 1 }));
      createdAt.push(Date.parse(order.created_at));
    }
    // Proves that the clocks were shifted.
    const [forwards, backwards] = createdAt as [number, number];
    expect(Math.abs(forwards - backwards - 5 * 3_600_000)).toBeLessThan(60_000);
    await shoppers.finish();
    await shoppers.repeat();
    await new Ledger(shape).expectInvariants({ log: shoppers, holdsMayWait: false });
    // Receivers reject signatures that do not match their own clock, so events of shifted times may be missing; but no event
    // may be delivered that has not happened.
    await eventually(async () => {
      const missing = await receiver.differences(await shape.databaseUrls());
      expect(missing.filter((it) => it.includes('has not happened'))).toEqual([]);
    });
    await receiver.stop();
  });
});
