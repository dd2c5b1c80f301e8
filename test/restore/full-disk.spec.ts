import { execFile } from 'node:child_process';
import { statfs, writeFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it } from '@jest/globals';
import { postgresAccount } from '../cluster/daemon.js';
import { acknowledged, expectAnswers, Trial } from '../support/trial.js';
import { InstalledPostgres, postgresOrSkip } from './installed-postgres.js';
import { monolithOn } from './restored.js';

const run = promisify(execFile);
const mebibyte = 2 ** 20;

/** Runs a command that needs root: in CI with sudo if necessary, elsewhere without. */
const asRoot = (...command: [string, ...string[]]): Promise<unknown> => {
  const isOther = process.getuid?.() !== 0 && Boolean(process.env['GITHUB_ACTIONS']);
  const [program, ...args] = isOther ? ['sudo', '--non-interactive', ...command] : command;
  return run(program, args);
};

/** Mounts a small tmpfs that belongs to the account of Postgres. */
const mount = async (folder: string): Promise<void> => {
  const { uid, gid } = (await postgresAccount()) ?? { uid: process.getuid?.(), gid: process.getgid?.() };
  await asRoot('mount', '-t', 'tmpfs', '-o', `size=160m,uid=${uid},gid=${gid},mode=700`, 'tmpfs', folder);
};

const describeWithPostgres = await postgresOrSkip(describe);

describeWithPostgres('a full disk', () => {
  const cleanUps: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
  });

  it('makes orders fail with 503 and loses no acknowledged one; with free space, orders continue', async () => {
    const folder = await InstalledPostgres.folder();
    cleanUps.push(() => InstalledPostgres.discard(folder));
    try {
      await mount(folder);
    } catch (error) {
      // In CI, this must not be skipped silently.
      if (process.env['GITHUB_ACTIONS']) throw error;
      process.stderr.write('SKIPPED: no disk of its own can be mounted here; root can\n');
      return;
    }
    cleanUps.push(() => asRoot('umount', '--lazy', folder));
    const settings = 'min_wal_size = 32MB\nmax_wal_size = 32MB\n';
    const postgres = await InstalledPostgres.start({ folder, settings });
    cleanUps.push(() => postgres.end());
    const shape = await monolithOn(postgres.url);
    cleanUps.push(() => shape.stop());
    const trial = new Trial(shape);
    await trial.stock();
    const load = trial.load(5);
    await load.until(() => acknowledged(load.attempts).length > 50);

    const ballast = join(folder, 'ballast');
    const { bavail, bsize } = await statfs(folder);
    // Leaves less space than a WAL segment needs.
    await writeFile(ballast, Buffer.alloc(bavail * bsize - 2 * mebibyte));
    const before = load.attempts.length;
    const refused = () => load.attempts.slice(before).filter((it) => it.outcome === 503);
    await load.until(() => refused().length > 20);
    expect((await trial.api.get('/health/live')).status).toBe(200);
    await rm(ballast);
    if (!postgres.isRunning) await postgres.again();
    const late = load.attempts.length;
    await load.until(() => acknowledged(load.attempts.slice(late)).length > 50);
    expectAnswers(await load.end(), [201, 409, 503]);
    await trial.settle();
  });
});
