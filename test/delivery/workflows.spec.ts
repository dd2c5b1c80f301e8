import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';
import { z } from 'zod';
import { orSkip } from '#testing';

const read = (path: string): string => readFileSync(path, 'utf8');
const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };

/** The subset of GitHub Actions that we use. Anything else, such as a misspelled key, is refused. */
const permissions = z.strictObject({
  contents: z.enum(['read', 'write']),
  packages: z.literal('write').optional(),
  'id-token': z.literal('write').optional(),
  attestations: z.literal('write').optional(),
});
const inputs = z.record(z.string(), z.union([z.string(), z.number(), z.boolean()]));
const step = z.strictObject({
  id: z.string().optional(),
  if: z.string().optional(),
  uses: z
    .string()
    // A tag can be moved to malicious code, which would run with our permissions to publish.
    .regex(/^[\w-]+\/[\w-]+@[0-9a-f]{40}$/, 'must be pinned by a commit')
    .optional(),
  with: inputs.optional(),
  run: z.string().optional(),
  env: z.record(z.string(), z.string()).optional(),
});
const job = z.strictObject({
  needs: z.union([z.string(), z.array(z.string())]).optional(),
  uses: z.string().optional(),
  'runs-on': z.string().optional(),
  'timeout-minutes': z.int().positive().optional(),
  environment: z.string().optional(),
  permissions: permissions.optional(),
  strategy: z
    .strictObject({
      'fail-fast': z.literal(false),
      matrix: z.record(z.string(), z.array(z.union([z.string(), z.number()]))),
    })
    .optional(),
  steps: z.array(step).optional(),
});
const workflow = z.strictObject({
  name: z.string(),
  on: z.strictObject({
    push: z.strictObject({ branches: z.array(z.string()).optional(), tags: z.array(z.string()).optional() }).optional(),
    pull_request: z.null().optional(),
    workflow_call: z.null().optional(),
    workflow_dispatch: z.null().optional(),
    schedule: z.array(z.strictObject({ cron: z.string().regex(/^(?:\S+ ){4}\S+$/) })).optional(),
  }),
  permissions,
  concurrency: z.strictObject({ group: z.string(), 'cancel-in-progress': z.string() }).optional(),
  jobs: z.record(z.string(), job),
});

const files = globSync('.github/workflows/*.yml').toSorted();
const workflows = files.map((file): [string, z.output<typeof workflow>] => [file, workflow.parse(parse(read(file)))]);

/** The npm scripts that a job runs, including those named in its matrix. */
const scriptsOf = ({ steps = [], strategy }: z.output<typeof job>): { script: string; isOptional: boolean }[] =>
  steps
    .flatMap(({ run = '' }) => [...run.matchAll(/npm run (--if-present )?(\$\{\{ matrix\.(\w+) \}\}|[\w:]+)/g)])
    .flatMap(([, flag, name, listed]) =>
      (listed === undefined ? [name!] : strategy!.matrix[listed]!.map(String)).map((script) => ({
        script,
        isOptional: flag !== undefined,
      })),
    );

/**
 * The Debian packages that the tests of a script need. GitHub sets `GITHUB_ACTIONS`, with which a test fails if its
 * package is missing. podman and kubectl are preinstalled on its runners.
 */
const needed: Record<string, string[]> = {
  jest: [
    ...['redis-server', 'nats-server', 'haproxy', 'postgresql', 'faketime', 'prometheus'],
    ...['python3-grpcio', 'python3-protobuf'],
  ],
  'test:shapes': ['redis-server', 'nats-server', 'python3-grpcio', 'python3-protobuf'],
  'test:security': ['redis-server', 'nats-server'],
  'test:update': ['redis-server'],
  'test:restore': ['redis-server', 'postgresql'],
  'test:image': ['redis-server', 'nats-server'],
  'test:crash': ['redis-server', 'nats-server', 'haproxy', 'faketime'],
  'test:cluster': ['redis-server', 'nats-server', 'haproxy', 'postgresql', 'patroni', 'etcd-server'],
};
/** Packages that start no service. */
const atRest = new Set(['faketime', 'python3-grpcio', 'python3-protobuf']);

describe('the pipeline', () => {
  it('checks each change, releases each tag, and runs the slow tests at night', () => {
    const when = Object.fromEntries(workflows.map(([file, { on }]) => [file.split(/[\\/]/).at(-1), Object.keys(on)]));
    expect(when).toEqual({
      'ci.yml': ['push', 'pull_request', 'workflow_call'],
      'nightly.yml': ['workflow_dispatch', 'schedule'],
      'release.yml': ['push'],
    });
  });

  it.each(workflows)('%s: is well-formed, and refers only to what exists', (_file, { jobs }) => {
    for (const [name, it] of Object.entries(jobs)) {
      for (const needed of [it.needs ?? []].flat()) expect(Object.keys(jobs)).toContain(needed);
      if (it.uses) {
        expect(existsSync(it.uses)).toBe(true);
        continue;
      }
      expect([name, it['runs-on'], it['timeout-minutes']]).toEqual([name, 'ubuntu-24.04', expect.any(Number)]);
      for (const { uses, run } of it.steps ?? []) expect([uses, run].filter(Boolean)).toHaveLength(1);
      for (const { script, isOptional } of scriptsOf(it))
        if (!isOptional) expect(Object.keys(scripts)).toContain(script);
      const ran = (it.steps ?? []).map(({ run = '' }) => run).join('\n');
      for (const [path] of ran.matchAll(/(?:docker|scripts)\/[\w./-]+\.\w+/g)) expect(existsSync(path)).toBe(true);
    }
  });

  it.each(files)('%s: notes the version of each pinned commit, and pins one commit per action', (file) => {
    const used = [...read(file).matchAll(/uses: (\S+)@(\S+)(.*)$/gm)];
    for (const [, action, , version] of used)
      expect([action, version]).toEqual([action, expect.stringMatching(/^ # v\d+\.\d+\.\d+$/)]);
    for (const [action, pins] of Map.groupBy(used, ([, it]) => it))
      expect([action, new Set(pins.map(([, , commit]) => commit)).size]).toEqual([action, 1]);
  });

  it.each(workflows)('%s: has the least permissions', (file, it) => {
    expect(it.permissions).toEqual({ contents: 'read' });
    const raised = Object.entries(it.jobs).filter(([, { permissions: own }]) => own !== undefined);
    if (!file.endsWith('release.yml')) expect(raised).toEqual([]);
    for (const { steps = [] } of Object.values(it.jobs)) {
      // Later steps cannot read the token of the checkout.
      for (const { uses, with: given } of steps)
        if (uses?.startsWith('actions/checkout@')) expect(given?.['persist-credentials']).toBe(false);
      // Values that others control, such as branch names, are never part of a command.
      for (const { run = '' } of steps) expect(run).not.toMatch(/\$\{\{ *(?:github|inputs|secrets)\b/);
    }
  });

  it('runs every check and test', () => {
    const run = new Set(
      workflows.flatMap(([, { jobs }]) => Object.values(jobs).flatMap(scriptsOf)).map(({ script }) => script),
    );
    const tests = Object.keys(scripts).filter((name) => name.startsWith('test:'));
    for (const script of ['build', 'check', 'jest', ...tests]) expect([...run]).toContain(script);
  });

  it('installs what the tests of a job need, and stops the services that the packages start', () => {
    for (const [, { jobs }] of workflows)
      for (const [name, it] of Object.entries(jobs)) {
        const ran = (it.steps ?? []).map(({ run = '' }) => run).join('\n');
        const listed = (command: string): string[] =>
          [...ran.matchAll(new RegExp(`${command} (.*)$`, 'gm'))].flatMap(([, names]) => names!.split(' '));
        const installed = listed('apt-get install -qq --yes');
        for (const { script } of scriptsOf(it))
          expect([name, installed]).toEqual([name, expect.arrayContaining(needed[script] ?? [])]);
        const started = installed.filter((each) => !atRest.has(each)).map((each) => each.replace(/^etcd-.*/, 'etcd'));
        expect([name, listed('systemctl stop')]).toEqual([name, expect.arrayContaining(started)]);
      }
  });

  it('skips tests for missing tools only through `orSkip`, which fails if `GITHUB_ACTIONS` is set', () => {
    const skipping = globSync('{apps,libs,test}/**/*.ts').filter((file) =>
      /\b(?:describe|it)\.skip\b/.test(read(file)),
    );
    expect(skipping.map((file) => file.replaceAll('\\', '/')).toSorted()).toEqual([
      // Tests as root on Linux, which are needed nowhere else.
      'libs/database/test/embedded-postgres.spec.ts',
      // Figures that only Linux reports.
      'libs/messaging/test/balancing.spec.ts',
      // Real orders, which are not part of the project.
      'test/replay/csv.ts',
      'test/replay/shapes.spec.ts',
      // A pg_dump of Postgres 18, which few systems package.
      'test/restore/own-postgres.spec.ts',
    ]);
  });

  it('starts every compose file and waits until all services are healthy', () => {
    const { jobs } = workflows.find(([file]) => file.endsWith('ci.yml'))![1];
    const ups = jobs['image']!.steps!.map(({ run = '' }) => run).filter((run) => / up /.test(run));
    const started = ups.map((run) => [...run.matchAll(/-f (\S+)/g)].map(([, file]) => file!));
    expect(new Set(started.flat())).toEqual(new Set(globSync('docker/compose.*.yaml')));
    for (const run of ups) expect(run).toContain(' --wait ');
    const overlays = ['split-redis', 'split-nats', 'observability'].map((it) => `docker/compose.${it}.yaml`);
    expect(started).toContainEqual(['docker/compose.split.yaml', ...overlays]);
  });

  it('publishes only after CI and the check of the tag, and the image with provenance and SBOM', () => {
    const { jobs } = workflows.find(([file]) => file.endsWith('release.yml'))![1];
    const before = (name: string): string[] =>
      [jobs[name]!.needs ?? []].flat().flatMap((needed) => [needed, ...before(needed)]);
    for (const name of ['image', 'sdk', 'release']) expect(before(name)).toEqual(expect.arrayContaining(['ci', 'tag']));
    expect(jobs['tag']!.steps!.map(({ run }) => run)).toEqual(
      expect.arrayContaining([
        'node scripts/release.ts check "$GITHUB_REF_NAME"',
        'git merge-base --is-ancestor HEAD origin/main',
      ]),
    );
    const build = jobs['image']!.steps!.find(({ uses }) => uses?.startsWith('docker/build-push-action@'))!;
    expect(build.with).toMatchObject({ provenance: 'mode=max', sbom: true, push: true, file: 'docker/Dockerfile' });
  });
});

describe('tests whose tools are missing', () => {
  const ci = process.env['GITHUB_ACTIONS'];
  afterEach(() => {
    if (ci === undefined) delete process.env['GITHUB_ACTIONS'];
    else process.env['GITHUB_ACTIONS'] = ci;
  });
  const test = Object.assign(() => undefined, { skip: () => undefined });

  it('fail in CI', () => {
    process.env['GITHUB_ACTIONS'] = 'true';
    expect(orSkip(true, test, 'nothing')).toBe(test);
    expect(() => orSkip(false, test, 'There is no such server')).toThrow('There is no such server');
  });

  it('are skipped elsewhere', () => {
    delete process.env['GITHUB_ACTIONS'];
    expect(orSkip(true, test, 'nothing')).toBe(test);
    expect(orSkip(false, test, 'what a test of skipping makes up')).toBe(test.skip);
  });
});

describe('the SDK', () => {
  it('names the repository that publishes it in its package.json', () => {
    const { jobs } = workflows.find(([file]) => file.endsWith('release.yml'))![1];
    const commands = jobs['sdk']!.steps!.map(({ run = '' }) => run);
    const naming = commands.findIndex((it) => it.startsWith('npm pkg set'));
    expect(commands.findIndex((it) => it.startsWith('npm publish'))).toBeGreaterThan(naming);
    const folder = mkdtempSync(join(tmpdir(), 'cleave-sdk-'));
    try {
      cpSync('libs/sdk/package.json', join(folder, 'libs/sdk/package.json'), { recursive: true });
      const here = { GITHUB_SERVER_URL: 'https://forge.example', GITHUB_REPOSITORY: 'shop/cleave' };
      execFileSync('bash', ['-euc', commands[naming]!], { cwd: folder, env: { ...process.env, ...here } });
      expect(JSON.parse(read(join(folder, 'libs/sdk/package.json')))).toEqual({
        ...(JSON.parse(read('libs/sdk/package.json')) as object),
        repository: { type: 'git', directory: 'libs/sdk', url: 'git+https://forge.example/shop/cleave.git' },
      });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('Dependabot', () => {
  it('updates every locked dependency', () => {
    const { updates } = parse(read('.github/dependabot.yml')) as {
      updates: { 'package-ecosystem': string; directory: string }[];
    };
    expect(updates.map((it) => `${it['package-ecosystem']} ${it.directory}`)).toEqual([
      'npm /',
      'github-actions /',
      'docker /docker',
      'docker-compose /docker',
    ]);
  });
});
