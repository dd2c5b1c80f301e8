// What a release needs besides its tag. `npm version <version>` runs `prepare`; the pipeline asks for the `notes` of a tag.
//
//   node scripts/release.ts prepare          the version is the one in package.json
//   node scripts/release.ts notes v1.2.0     prints what the changelog says of it
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const manifest = 'docs/released-migrations.json';
const changelog = 'CHANGELOG.md';
const imageTag = 'docker/kubernetes/component/kustomization.yaml';

const hashOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
const today = (): string => new Date().toISOString().slice(0, 10);

/** The last release, by its tag, or a commit in its place as long as there is none; and what it had of migrations. */
export interface ReleasedMigrations {
  release: string;
  /** The hash of each, by its path. */
  migrations: Record<string, string>;
}

/** The hash of each migration, by its path. */
export const migrationsIn = (root: string): Record<string, string> =>
  Object.fromEntries(
    globSync('libs/*/migrations/*.ts', { cwd: root })
      .toSorted()
      .map((path) => [path.replaceAll('\\', '/'), hashOf(`${root}/${path}`)]),
  );

/** The migrations that were released and are not what they were: databases have run them, and will never run them again. */
export const changedAfterRelease = (released: Record<string, string>, present: Record<string, string>): string[] =>
  Object.keys(released).filter((path) => present[path] !== released[path]);

/** What the changelog says of a version. @throws Error where it says nothing */
export const notesOf = (text: string, version: string): string => {
  const [, ...sections] = text.split(/^## /m);
  const section = sections.find((it) => it.startsWith(`[${version}]`));
  const notes = section?.slice(section.indexOf('\n')).trim();
  if (!notes)
    throw new Error(`${changelog} says nothing of ${version}; write it under [Unreleased] before the release.`);
  return `${notes}\n`;
};

/** The changelog after a release: what was unreleased is the version's, and nothing is unreleased. */
export const released = (text: string, version: string, date: string): string => {
  notesOf(text, 'Unreleased');
  return text.replace('## [Unreleased]', `## [Unreleased]\n\n## [${version}] - ${date}`);
};

const prepare = (): void => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  const before = JSON.parse(readFileSync(manifest, 'utf8')) as ReleasedMigrations;
  const migrations = migrationsIn('.');
  const changed = changedAfterRelease(before.migrations, migrations);
  if (changed.length > 0)
    throw new Error(`Changed after their release: ${changed.join(', ')}. Undo it, and add another.`);
  const after: ReleasedMigrations = { release: `v${version}`, migrations };
  writeFileSync(manifest, `${JSON.stringify(after, null, 2)}\n`);
  writeFileSync(changelog, released(readFileSync(changelog, 'utf8'), version, today()));
  writeFileSync(imageTag, readFileSync(imageTag, 'utf8').replace(/newTag: [^ }]+/, `newTag: ${version}`));
  const sdk = 'libs/sdk/package.json';
  if (existsSync(sdk)) {
    writeFileSync(
      sdk,
      `${JSON.stringify({ ...(JSON.parse(readFileSync(sdk, 'utf8')) as object), version }, null, 2)}\n`,
    );
    execFileSync('git', ['add', sdk]);
  }
  execFileSync('git', ['add', manifest, changelog, imageTag]);
};

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [command, tag = ''] = process.argv.slice(2);
  if (command === 'prepare') prepare();
  else if (command === 'notes') process.stdout.write(notesOf(readFileSync(changelog, 'utf8'), tag.replace(/^v/, '')));
  else throw new Error('Say `prepare`, or `notes` and a tag.');
}
