import { execFile } from 'node:child_process';
import { appendFile, chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { eventually, testDatabase } from '#testing';
import { guardFolder, unguardFolder } from '../support/app-process.js';
import { fresh } from '../support/fresh.js';
import { commandsIn } from '../support/runbooks.js';
import { embeddedDatabaseUrl, servicePorts, startPlan } from '../support/shapes.js';
import { allAt } from '../support/tables.js';
import { Trial } from '../support/trial.js';
import { WebhookReceiver } from '../support/webhook-receiver.js';
import { InstalledPostgres, installedClient, installedVersions, majorOf } from './installed-postgres.js';
import { eventsAfter, orderIds } from './restored.js';

const run = promisify(execFile);

const client = await installedClient(18);
const itWithClient = client ? it : it.skip;
const [oldest] = await installedVersions();
const itWithOlder = oldest && client && majorOf(oldest) < 17 ? it : it.skip;
if (!client) process.stderr.write('SKIPPED: there is no pg_dump of Postgres 18 here: install postgresql-client-18\n');

const title = 'From `.data` to a Postgres of your own';
const [copy, dump, connect] = commandsIn(title, 'sh');
const [settings] = commandsIn(title, 'ini');
const settingsHere = settings!.replace(`'*'`, `'127.0.0.1'`);
const [restore, , goOn] = commandsIn('Restore', 'sh');

/** The output of a documented command, run by the account that started Cleave. */
const given = async (command: string, cwd: string, more: Record<string, string> = {}): Promise<string> => {
  const env = { PATH: [client, process.env['PATH']].filter(Boolean).join(':'), ...more };
  return (await run('bash', ['-euo', 'pipefail', '-c', command], { cwd, env })).stdout;
};

describe('the data that `npm start` keeps in .data', () => {
  let port: number;
  beforeAll(async () => {
    [port] = (await servicePorts(1)) as [number];
  });
  const cleanUps: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
  });

  /** A folder for `.data` that the account of Postgres may traverse. */
  const folderOfData = async (): Promise<string> => {
    const folder = await mkdtemp(join(tmpdir(), 'cleave-own-'));
    const guarded = [join(folder, '.data'), folder];
    for (const it of guarded) guardFolder(it);
    cleanUps.push(async () => {
      await rm(folder, { recursive: true, force: true, maxRetries: 5 });
      for (const it of guarded) unguardFolder(it);
    });
    await chmod(folder, 0o755);
    return folder;
  };

  /** A monolith with two-phase commit, which requires the most of Postgres; always at the same address. */
  const start = async (
    environment: Record<string, string>,
    url: () => Promise<string>,
  ): Promise<{ trial: Trial; stop: () => Promise<void> }> => {
    const own = { ...environment, ORDER_COMMIT: 'two-phase', WEBHOOKS_ALLOW_PRIVATE: 'true' };
    const shape = await startPlan('own', {
      services: [{ app: 'monolith', port, environment: own }],
      databaseUrls: async () => allAt(await url()),
      release: () => Promise.resolve(),
    });
    const stop = () => shape.stop();
    cleanUps.push(stop);
    return { trial: new Trial(shape), stop };
  };

  /** Places orders and subscribes a webhook. @returns a check of the data, wherever they are next */
  const use = async (before: Trial): Promise<(after: Trial) => Promise<void>> => {
    const receiver = await WebhookReceiver.start(before.api, await before.shape.databaseUrls());
    const product_id = await before.api.product({ onHand: 5 });
    const contact = { name: fresh('Quagga'), email: 'quagga@example.com' };
    const body = { customer_id: fresh('c'), product_id, quantity: 1, contact };
    const key = fresh('moved');
    const answered = await before.api.placed(body, key);
    await before.ledger.quiet();
    const told = await eventsAfter(before);
    const late = await before.api.placed({ customer_id: 'late', product_id, quantity: 1 });
    const placed = await before.api.order(answered.order_id);
    expect(placed).toMatchObject({ personal: 'kept', contact });
    const kept = await orderIds(before);
    return async (after) => {
      expect(await orderIds(after)).toEqual(kept);
      expect(await after.api.order(answered.order_id)).toEqual(placed);
      expect(await after.api.placed(body, key)).toEqual(answered);
      const next = await after.api.placed({ customer_id: 'next', product_id, quantity: 1 });
      await after.ledger.expectInvariants();
      const unread = [late, next].map((it) => `${it.order_id}:1`);
      expect((await eventsAfter(after, told.cursor)).ids).toEqual(unread);
      expect((await eventsAfter(after)).ids).toEqual([...told.ids, ...unread]);
      const differences = async () => receiver.differences(await after.shape.databaseUrls());
      await eventually(async () => expect(await differences()).toEqual([]), 60_000);
      expect([...receiver.told.keys()]).toEqual(expect.arrayContaining(unread));
      await receiver.stop();
    };
  };

  /** The environment that the documented commands produce. */
  const documented = async (folder: string): Promise<{ DATABASE_URL: string; DATA_KEYS: string }> => {
    const printed = await given(`${connect}printf '%s\n' "$DATABASE_URL" "$DATA_KEYS"`, folder);
    const [DATABASE_URL, DATA_KEYS] = printed.split('\n') as [string, string];
    return { DATABASE_URL, DATA_KEYS };
  };

  it('are served by a Postgres of the same version on a copy', async () => {
    const folder = await folderOfData();
    const dataDir = join(folder, '.data');
    const { trial, stop } = await start({ DATA_DIR: dataDir }, () => embeddedDatabaseUrl(dataDir));
    const expectToGoOn = await use(trial);
    const { password } = new URL(await embeddedDatabaseUrl(dataDir));
    const options = await readFile(join(dataDir, 'postgres', 'data', 'postmaster.opts'), 'utf8');
    const programs = dirname(/^(.+?) "/.exec(options)![1]!);
    await stop();

    const target = join(folder, 'srv');
    await given(copy!.replaceAll('/srv/cleave', target), folder);
    await appendFile(join(target, 'data', 'postgresql.conf'), settingsHere);
    const server = await InstalledPostgres.on(target, programs, password);
    cleanUps.push(() => server.end());
    const environment = await documented(folder);
    const url = environment.DATABASE_URL.replace('db:5432', new URL(server.url).host);
    const after = await start({ ...environment, DATABASE_URL: url }, () => Promise.resolve(server.url));
    await expectToGoOn(after.trial);
    await after.stop();
  });

  /** Dumps the data, restores them into an empty database, and checks them there. */
  const move = async (url: string, restored: (cwd: string, env: Record<string, string>) => Promise<unknown>) => {
    const folder = await folderOfData();
    const dataDir = join(folder, '.data');
    const { trial, stop } = await start({ DATA_DIR: dataDir }, () => embeddedDatabaseUrl(dataDir));
    const expectToGoOn = await use(trial);
    await given(dump!, folder);
    await stop();

    const environment = { ...(await documented(folder)), DATABASE_URL: url };
    await restored(folder, environment);
    await given(goOn!.replace('npm run build && ', ''), process.cwd(), environment);
    const after = await start(environment, () => Promise.resolve(url));
    await expectToGoOn(after.trial);
    await after.stop();
  };

  itWithClient('are dumped and restored into another Postgres of that version', async () => {
    const database = await testDatabase();
    cleanUps.push(() => database.stop());
    await move(database.url, (cwd, env) => given(restore!, cwd, env));
  });

  itWithOlder('are dumped and restored into an older Postgres, with an error for a single setting', async () => {
    const database = await InstalledPostgres.start({ bin: oldest!, settings: settingsHere });
    cleanUps.push(() => database.stop());
    await move(database.url, (cwd, env) =>
      expect(given(restore!.replace('--exit-on-error ', ''), cwd, env)).rejects.toMatchObject({
        stderr: expect.stringMatching(/"transaction_timeout"\n[^]*errors ignored on restore: 1\n$/),
      }),
    );
  });
});
