import { appendFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import { eventually } from '#testing';
import { commandsIn } from '../support/runbooks.js';
import type { Shape } from '../support/shapes.js';
import { query } from '../support/tables.js';
import { acknowledged, Trial } from '../support/trial.js';
import { InstalledPostgres, installedVersions, postgresOrSkip, shell } from './installed-postgres.js';
import { eventsAfter, monolithOn, orderIds } from './restored.js';

const describeWithPostgres = await postgresOrSkip(describe);

describeWithPostgres('data taken over by another server', () => {
  const cleanUps: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
  });

  const folder = async (): Promise<string> => {
    const made = await InstalledPostgres.folder();
    cleanUps.push(() => InstalledPostgres.discard(made));
    return made;
  };
  const running = (server: InstalledPostgres): InstalledPostgres => {
    cleanUps.push(() => server.stop());
    return server;
  };
  const tried = async (url: string): Promise<{ trial: Trial; stop: () => Promise<void> }> => {
    let shape: Shape | undefined = await monolithOn(url);
    const stop = async () => {
      await shape?.stop();
      shape = undefined;
    };
    cleanUps.push(stop);
    return { trial: new Trial(shape), stop };
  };

  it('are recovered to the moment before a mistake from a base backup and archived WAL, and the log continues', async () => {
    const backup = await folder();
    const here = (text: string): string => text.replaceAll('/backup', backup);
    const [archiving, recovering] = commandsIn('To any moment', 'ini');
    const source = running(await InstalledPostgres.start({ settings: here(archiving!) }));
    const { trial: before, stop } = await tried(source.url);
    await before.stock();
    const load = before.load(20);
    await load.until(() => acknowledged(load.attempts).length > 20);
    const base = commandsIn('Backup', 'sh').find((it) => it.includes('pg_basebackup'));
    const { port } = new URL(source.url);
    await shell(`mkdir -p ${backup}/wal`);
    await shell(here(base!).replace('-h db -U replicator', `-h 127.0.0.1 -p ${port} -U cleave`));
    const early = acknowledged(load.attempts).length;
    await load.until(() => acknowledged(load.attempts).length > early + 20);
    await load.end();
    await before.ledger.quiet();
    const kept = await orderIds(before);
    const told = await eventsAfter(before);
    const [{ moment }] = (await query(source.url, 'SELECT clock_timestamp()::text AS moment')) as [{ moment: string }];
    // A consumer reads an event that the recovery will undo.
    const product_id = await before.api.product({ onHand: 5 });
    const lost = await before.api.placed({ customer_id: 'late', product_id, quantity: 1 });
    await before.ledger.quiet();
    const readOn = await eventsAfter(before, told.cursor);
    expect(readOn.ids).toEqual([`${lost.order_id}:1`]);
    await stop();
    await query(source.url, 'DROP SCHEMA orders CASCADE');
    const [{ last }] = (await query(source.url, 'SELECT pg_walfile_name(pg_switch_wal()) AS last')) as [
      { last: string },
    ];
    await eventually(async () => expect(await readdir(join(backup, 'wal'))).toContain(last));
    await source.end();

    const target = await folder();
    await shell(`cp -a ${backup}/base ${target}/data`);
    const settings = here(recovering!).replace(/'\d{4}-[^']*'/, `'${moment}'`);
    await appendFile(join(target, 'data', 'postgresql.conf'), settings);
    await writeFile(join(target, 'data', 'recovery.signal'), '');
    const copy = running(await InstalledPostgres.on(target));
    await eventually(async () =>
      expect(await query(copy.url, 'SELECT pg_is_in_recovery() AS yes')).toEqual([{ yes: false }]),
    );
    await query(copy.url, 'SELECT orders.continue_log()');
    const { trial: after } = await tried(copy.url);
    expect(await orderIds(after)).toEqual(kept);
    expect((await eventsAfter(after)).ids).toEqual(told.ids);
    await after.ledger.expectInvariants();
    const again = await after.api.product({ onHand: 1 });
    const order = await after.api.placed({ customer_id: 'new', product_id: again, quantity: 1 });
    await after.ledger.expectInvariants();
    // This includes cursors beyond the end of the recovered log.
    for (const cursor of [told.cursor, readOn.cursor])
      expect((await eventsAfter(after, cursor)).ids).toEqual([`${order.order_id}:1`]);
  });

  it('are upgraded by pg_upgrade from the oldest installed version, and the log continues by itself', async () => {
    const versions = await installedVersions();
    const [oldest, newest] = [versions[0]!, versions.at(-1)!];
    const old = running(await InstalledPostgres.start({ bin: oldest }));
    const { trial: before, stop } = await tried(old.url);
    await before.stock();
    const load = before.load(20);
    await load.until(() => acknowledged(load.attempts).length > 40);
    await load.end();
    await before.ledger.quiet();
    const kept = await orderIds(before);
    const told = await eventsAfter(before);
    await stop();
    await old.end();

    const target = await folder();
    await InstalledPostgres.init(target, newest, { bin: oldest, data: join(old.folder, 'data') });
    const [upgrade, analyse] = commandsIn('Major upgrades of Postgres', 'sh');
    const paths = { OLD: oldest, NEW: newest, OLD_DATA: join(old.folder, 'data'), NEW_DATA: join(target, 'data') };
    await shell(`cd ${target}\n${upgrade}`, paths);
    const upgraded = running(await InstalledPostgres.on(target));
    const { port } = new URL(upgraded.url);
    await shell(analyse!, { ...paths, PGHOST: '127.0.0.1', PGPORT: port, PGUSER: 'cleave' });
    const { trial: after } = await tried(upgraded.url);
    expect(await orderIds(after)).toEqual(kept);
    const product_id = await after.api.product({ onHand: 1 });
    const order = await after.api.placed({ customer_id: 'new', product_id, quantity: 1 });
    await after.ledger.expectInvariants();
    expect((await eventsAfter(after, told.cursor)).ids).toEqual([`${order.order_id}:1`]);
    expect((await eventsAfter(after)).ids).toEqual([...told.ids, `${order.order_id}:1`]);
  });
});
