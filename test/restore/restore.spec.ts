import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startEmbeddedPostgres, type EmbeddedPostgres } from '#database';
import { AppProcess, guardFolder, unguardFolder } from '../support/app-process.js';
import type { Shape } from '../support/shapes.js';
import { commandsIn } from '../support/runbooks.js';
import { query } from '../support/tables.js';
import { acknowledged, Trial } from '../support/trial.js';
import { InstalledPostgres, postgresOrSkip, shell, tool } from './installed-postgres.js';
import { eventsAfter, monolithOn, orderIds } from './restored.js';

const describeWithPostgres = await postgresOrSkip(describe);

describeWithPostgres('a restored database', () => {
  let source: InstalledPostgres;
  let shape: Shape | undefined;
  const started: { stop(): Promise<void> }[] = [];

  const tried = async (url: string): Promise<Trial> => {
    shape = await monolithOn(url);
    return new Trial(shape);
  };
  const stopped = async (): Promise<void> => {
    await shape?.stop();
    shape = undefined;
  };

  beforeAll(async () => {
    source = await InstalledPostgres.start();
    started.push(source);
  });
  afterAll(async () => {
    await stopped();
    for (const it of started.toReversed()) await it.stop();
  });

  const embedded = async (): Promise<EmbeddedPostgres> => {
    const folder = await mkdtemp(join(tmpdir(), 'cleave-restored-'));
    guardFolder(folder);
    const server = await startEmbeddedPostgres({ dataDir: folder });
    started.push({
      stop: async () => {
        await server.stop();
        await rm(folder, { recursive: true, force: true });
        unguardFolder(folder);
      },
    });
    await server.createDatabase('cleave');
    return server;
  };

  it('from a dump into a newer server is refused until continue_log, then misses and repeats no event', async () => {
    const before = await tried(source.url);
    await before.stock();
    const load = before.load(50);
    await load.until(() => acknowledged(load.attempts).length > 40);
    await load.end();
    await before.ledger.quiet();
    const told = await eventsAfter(before);
    const kept = await orderIds(before);
    await stopped();
    // The old server has used more transaction ids than the new one will have.
    await query(source.url, `DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$`);
    const last = await tried(source.url);
    await last.api.product({ onHand: 1 });
    const id = await last.api.product({ onHand: 5 });
    const late = await last.api.placed({ customer_id: 'late', product_id: id, quantity: 1 });
    await last.ledger.quiet();
    await stopped();
    const file = join(await InstalledPostgres.folder(), 'cleave.dump');
    await tool('pg_dump', '--dbname', source.url, '--format=custom', '--file', file);
    const target = (await embedded()).url('cleave');
    await tool('pg_restore', '--exit-on-error', '--no-owner', '--dbname', target, file);
    await rm(join(file, '..'), { recursive: true });
    unguardFolder(join(file, '..'));

    const refused = new AppProcess('monolith', { DATABASE_URL: target, HOST: '127.0.0.1', PORT: '0' });
    refused.spawn();
    expect(await refused.exit).toEqual({ code: 1, signal: null });
    expect(refused.log).toContain('Run `SELECT orders.continue_log()` in it, once');
    await query(target, 'SELECT orders.continue_log()');

    const after = await tried(target);
    expect(await orderIds(after)).toEqual([...kept, { order_id: late.order_id }].toSorted(byId));
    // Consumers continue at their cursors.
    const seen = await eventsAfter(after, told.cursor);
    expect(seen.ids).toEqual([`${late.order_id}:1`]);
    const order = await after.api.placed({ customer_id: 'new', product_id: id, quantity: 1 });
    await after.ledger.quiet();
    expect((await eventsAfter(after, seen.cursor)).ids).toEqual([`${order.order_id}:1`]);
    expect((await eventsAfter(after)).ids).toEqual([...told.ids, `${late.order_id}:1`, `${order.order_id}:1`]);
    await after.ledger.expectInvariants();
    await stopped();
    // A second time, as after a restore to an earlier time.
    await query(target, 'SELECT orders.continue_log()');
    const again = await tried(target);
    const another = await again.api.placed({ customer_id: 'new', product_id: id, quantity: 1 });
    await again.ledger.expectInvariants();
    expect((await eventsAfter(again, seen.cursor)).ids).toEqual([`${order.order_id}:1`, `${another.order_id}:1`]);
    await stopped();
  });

  it('from a plain SQL dump is complete, with quoted identifiers or with the documented fix for unquoted ones', async () => {
    const before = await tried(source.url);
    const product_id = await before.api.product({ onHand: 5 });
    const paid = { customer_id: 'c', product_id, quantity: 1, payment: { method: 'manual' } };
    await before.api.placed(paid);
    await before.ledger.quiet();
    const kept = await orderIds(before);
    await stopped();
    const quoted = commandsIn('Backup', 'sh').find((it) => it.includes('cleave.sql'))!;
    const restoring = commandsIn('Restore', 'sh').find((it) => it.includes('cleave.sql'))!;
    for (const dumping of [quoted, quoted.replace('--quote-all-identifiers ', '')]) {
      const folder = await InstalledPostgres.folder();
      const target = (await embedded()).url('cleave');
      await shell(`cd ${folder}\n${dumping}`, { DATABASE_URL: source.url });
      // The command that quotes the names in some dumps has no effect on others.
      await shell(`cd ${folder}\n${restoring}`, { DATABASE_URL: target });
      await InstalledPostgres.discard(folder);
      await query(target, 'SELECT orders.continue_log()');
      const after = await tried(target);
      expect(await orderIds(after)).toEqual(kept);
      const { order_id } = await after.api.placed(paid);
      await after.ledger.quiet();
      expect(await after.api.payment(order_id)).toMatchObject({
        operations: [{ kind: 'authorise', state: 'succeeded' }],
      });
      await after.ledger.expectInvariants();
      await stopped();
    }
  });

  it('from pg_basebackup under load has every order acknowledged before the backup began', async () => {
    const before = await tried(source.url);
    await before.stock();
    const load = before.load(20);
    await load.until(() => acknowledged(load.attempts).length > 20);
    const folder = await InstalledPostgres.folder();
    const early = acknowledged(load.attempts).map((it) => it.order!.order_id);
    const { username, port } = new URL(source.url);
    const backup = ['--pgdata', join(folder, 'data'), '--wal-method=stream', '--checkpoint=fast', '--no-sync'];
    await tool('pg_basebackup', '-h', '127.0.0.1', '-p', port, '-U', username, ...backup);
    await load.until(() => acknowledged(load.attempts).length > early.length + 20);
    await load.end();
    await stopped();
    const copy = await InstalledPostgres.on(folder);
    started.push(copy);
    await query(copy.url, 'SELECT orders.continue_log()');
    const after = await tried(copy.url);
    await after.ledger.expectInvariants();
    const kept = new Set((await orderIds(after)).map((it) => it.order_id));
    expect(early.filter((it) => !kept.has(it))).toEqual([]);
    const id = await after.api.product({ onHand: 1 });
    await after.api.placed({ customer_id: 'new', product_id: id, quantity: 1 });
    await after.ledger.expectInvariants();
  });
});

const byId = (one: { order_id: string }, other: { order_id: string }): number =>
  one.order_id < other.order_id ? -1 : 1;
