import { spawnSync } from 'node:child_process';
import { mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from '@jest/globals';
import {
  changedAfterRelease,
  faultsOfTag,
  migrationsIn,
  notesOf,
  released,
  type ReleasedMigrations,
} from '../../scripts/release.js';

const read = (path: string): string => readFileSync(path, 'utf8');

describe('released migrations', () => {
  const folder = mkdtempSync(join(tmpdir(), 'cleave-release-'));
  const place = join(folder, 'libs/order/migrations');
  afterAll(() => rmSync(folder, { recursive: true }));

  it('have not changed since their release', () => {
    const { migrations } = JSON.parse(read('docs/released-migrations.json')) as ReleasedMigrations;
    const present = migrationsIn('.');
    expect(Object.keys(present).length).toBeGreaterThan(5);
    expect(changedAfterRelease(migrations, present)).toEqual([]);
  });

  it('are reported if they are deleted or changed, while new ones may be added', () => {
    mkdirSync(place, { recursive: true });
    for (const name of ['1-orders', '2-sagas']) writeFileSync(join(place, `${name}.ts`), `${name} as released`);
    const before = migrationsIn(folder);
    expect(Object.keys(before)).toEqual(['libs/order/migrations/1-orders.ts', 'libs/order/migrations/2-sagas.ts']);
    writeFileSync(join(place, '3-more.ts'), 'another');
    expect(changedAfterRelease(before, migrationsIn(folder))).toEqual([]);
    writeFileSync(join(place, '1-orders.ts'), '1-orders, corrected');
    rmSync(join(place, '2-sagas.ts'));
    expect(changedAfterRelease(before, migrationsIn(folder))).toEqual(Object.keys(before));
  });
});

describe('the changelog', () => {
  it('describes the next release under Unreleased', () => {
    expect(notesOf(read('CHANGELOG.md'), 'Unreleased')).toMatch(/^### Added\n\n- /);
  });

  it('moves Unreleased under the version that is released, and finds the notes of each version', () => {
    const text = '# Changelog\n\n## [Unreleased]\n\n### Fixed\n\n- One thing.\n\n## [1.0.0] - 2026-01-01\n\n- All.\n';
    const after = released(text, '1.0.1', '2026-02-03');
    expect(after).toContain('## [Unreleased]\n\n## [1.0.1] - 2026-02-03\n\n### Fixed\n\n- One thing.\n');
    expect(notesOf(after, '1.0.1')).toBe('### Fixed\n\n- One thing.\n');
    expect(notesOf(after, '1.0.0')).toBe('- All.\n');
    expect(() => released(after, '1.0.2', '2026-02-04')).toThrow('says nothing of Unreleased');
    expect(() => notesOf(after, '1.0.3')).toThrow('says nothing of 1.0.3');
  });
});

describe('a tag', () => {
  it('must match the version in every file', () => {
    const versions = {
      'package.json': 'v1.2.0',
      'libs/sdk/package.json': 'v1.2.0',
      'docs/released-migrations.json': 'v1.2.0',
    };
    expect(faultsOfTag('v1.2.0', versions)).toEqual([]);
    expect(faultsOfTag('v1.3.0', { ...versions, 'package.json': 'v1.3.0' })).toEqual([
      'libs/sdk/package.json says v1.2.0',
      'docs/released-migrations.json says v1.2.0',
    ]);
  });

  it('that was not prepared is refused before anything is published', () => {
    const checking = spawnSync(process.execPath, ['scripts/release.ts', 'check', 'v999.0.0'], { encoding: 'utf8' });
    expect(checking.status).not.toBe(0);
    expect(checking.stderr).toContain('The tag is v999.0.0, but package.json says v');
  });
});

describe('the documents of the project', () => {
  it('name only existing npm scripts', () => {
    const { scripts, license } = JSON.parse(read('package.json')) as {
      scripts: Record<string, string>;
      license: string;
    };
    for (const file of ['CONTRIBUTING.md', 'README.md'])
      for (const [, script] of read(file).matchAll(/npm run ([\w:]+)/g))
        expect([file, script, Object.keys(scripts)]).toEqual([file, script, expect.arrayContaining([script])]);
    expect(license).toBe('Apache-2.0');
    expect(read('LICENSE')).toContain('Apache License');
    expect(read('SECURITY.md')).toContain('Report a vulnerability');
  });
});
