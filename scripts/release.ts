// Prepares and checks releases. `npm version <version>` runs `prepare`; the pipeline checks a tag before anything is
// published, and prints its notes.
//
//   node scripts/release.ts prepare          takes the version from package.json
//   node scripts/release.ts check v1.2.0     fails unless the tag was made of a prepared version
//   node scripts/release.ts notes v1.2.0     prints its section of the changelog
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { globSync, readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const manifest = 'docs/released-migrations.json';
const changelog = 'CHANGELOG.md';
const imageTag = 'docker/kubernetes/component/kustomization.yaml';
const sdk = 'libs/sdk/package.json';

const hashOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
const today = (): string => new Date().toISOString().slice(0, 10);

/** The last release, by its tag, or a commit while there is none; and its migrations. */
export interface ReleasedMigrations {
  release: string;
  /** The hash of each migration, by its path. */
  migrations: Record<string, string>;
}

/** The hash of each migration, by its path. */
export const migrationsIn = (root: string): Record<string, string> =>
  Object.fromEntries(
    globSync('libs/*/migrations/*.ts', { cwd: root })
      .toSorted()
      .map((path) => [path.replaceAll('\\', '/'), hashOf(`${root}/${path}`)]),
  );

/** Released migrations that have changed: databases that have run them will never run them again. */
export const changedAfterRelease = (released: Record<string, string>, present: Record<string, string>): string[] =>
  Object.keys(released).filter((path) => present[path] !== released[path]);

/** The section of a version in the changelog. @throws Error if there is none */
export const notesOf = (text: string, version: string): string => {
  const [, ...sections] = text.split(/^## /m);
  const section = sections.find((it) => it.startsWith(`[${version}]`));
  const notes = section?.slice(section.indexOf('\n')).trim();
  if (!notes)
    throw new Error(`${changelog} says nothing of ${version}; write it under [Unreleased] before the release.`);
  return `${notes}\n`;
};

/** The changelog after a release: the unreleased section becomes that of the version, and a new one is begun. */
export const released = (text: string, version: string, date: string): string => {
  notesOf(text, 'Unreleased');
  return text.replace('## [Unreleased]', `## [Unreleased]\n\n## [${version}] - ${date}`);
};

/** The files with another version than the tag. @param versions by file */
export const faultsOfTag = (tag: string, versions: Record<string, string>): string[] =>
  Object.entries(versions)
    .filter(([, version]) => version !== tag)
    .map(([file, version]) => `${file} says ${version}`);

const versionIn = (file: string): string => (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;

const check = (tag: string): void => {
  const { release } = JSON.parse(readFileSync(manifest, 'utf8')) as ReleasedMigrations;
  const versions = Object.fromEntries(['package.json', sdk].map((file) => [file, `v${versionIn(file)}`]));
  const faults = faultsOfTag(tag, { ...versions, [manifest]: release });
  if (faults.length > 0)
    throw new Error(`The tag is ${tag}, but ${faults.join(', ')}. Delete it, and have \`npm version\` make another.`);
  notesOf(readFileSync(changelog, 'utf8'), tag.replace(/^v/, ''));
};

const prepare = (): void => {
  const version = versionIn('package.json');
  const before = JSON.parse(readFileSync(manifest, 'utf8')) as ReleasedMigrations;
  const migrations = migrationsIn('.');
  const changed = changedAfterRelease(before.migrations, migrations);
  if (changed.length > 0)
    throw new Error(`Changed after their release: ${changed.join(', ')}. Undo it, and add another.`);
  const after: ReleasedMigrations = { release: `v${version}`, migrations };
  writeFileSync(manifest, `${JSON.stringify(after, null, 2)}\n`);
  writeFileSync(changelog, released(readFileSync(changelog, 'utf8'), version, today()));
  writeFileSync(imageTag, readFileSync(imageTag, 'utf8').replace(/newTag: [^ }]+/, `newTag: ${version}`));
  writeFileSync(sdk, `${JSON.stringify({ ...(JSON.parse(readFileSync(sdk, 'utf8')) as object), version }, null, 2)}\n`);
  execFileSync('git', ['add', manifest, changelog, imageTag, sdk]);
};

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [command, tag = ''] = process.argv.slice(2);
  if (command === 'prepare') prepare();
  else if (command === 'check') check(tag);
  else if (command === 'notes') process.stdout.write(notesOf(readFileSync(changelog, 'utf8'), tag.replace(/^v/, '')));
  else throw new Error('Say `prepare`, or `check` or `notes` and a tag.');
}
