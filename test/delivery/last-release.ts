import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { ReleasedMigrations } from '../../scripts/release.js';

const git = (...args: string[]): string | undefined => {
  const { status, stdout } = spawnSync('git', args, { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
};

/**
 * The version to update from: `UPDATE_FROM`, else the last tag before this commit, else the commit in
 * docs/released-migrations.json.
 */
export const lastRelease = (): string | undefined => {
  const { release } = JSON.parse(readFileSync('docs/released-migrations.json', 'utf8')) as ReleasedMigrations;
  const wanted =
    process.env['UPDATE_FROM'] ?? git('describe', '--tags', '--abbrev=0', '--match', 'v*', 'HEAD^') ?? release;
  return git('rev-parse', '--verify', '--quiet', `${wanted}^{commit}`) === undefined ? undefined : wanted;
};

/** Compiles the apps of another version in a folder of its own, with its locked packages. @returns the folder */
export const compiled = (version: string): string => {
  const folder = mkdtempSync(join(tmpdir(), 'cleave-update-'));
  const archive = execFileSync('git', ['archive', version], { maxBuffer: 1024 ** 3 });
  execFileSync('tar', ['-x', '-C', folder], { input: archive });
  const lock = (at: string): string => readFileSync(join(at, 'package-lock.json'), 'utf8');
  if (lock(folder) === lock('.')) symlinkSync(resolve('node_modules'), join(folder, 'node_modules'));
  else execFileSync('npm', ['ci', '--ignore-scripts'], { cwd: folder, stdio: 'ignore' });
  const appsAlone = {
    extends: './tsconfig.json',
    include: ['apps/**/*.ts', 'libs/*/src/**/*.ts', 'libs/*/migrations/*.ts'],
  };
  writeFileSync(join(folder, 'tsconfig.apps.json'), JSON.stringify(appsAlone));
  // Its types were checked when it was released.
  const options = ['--noCheck', '--incremental', 'false', '--sourceMap', 'false'];
  execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.apps.json', ...options], {
    cwd: folder,
  });
  return folder;
};
