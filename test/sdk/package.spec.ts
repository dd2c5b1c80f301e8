import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startShape, type Shape } from '../support/shapes.js';

const run = promisify(execFile);
/** npm from the PATH, with the Node that it runs on. */
const npm = async (folder: string, ...args: string[]): Promise<string> =>
  (await run('npm', [...args, '--no-audit', '--no-fund'], { cwd: folder, timeout: 120_000 })).stdout;

const root = process.cwd();

/** The supported major versions of Node, each in its newest release; only with `npm run test:sdk`. */
const majors = 'fullRun' in globalThis ? [20, 22, 24, 26] : [];

/** The examples of the README as one program. */
const examples = async (baseUrl: string): Promise<string> => {
  const readme = await readFile('libs/sdk/README.md', 'utf8');
  const blocks = [...readme.matchAll(/```js\n(.*?)```/gs)].map(([, block]) => block);
  if (blocks.length < 5) throw new Error('the README has fewer examples than it had');
  return blocks.join('\n').replaceAll('http://127.0.0.1:3000', baseUrl);
};

describe('the published package', () => {
  let shape: Shape;
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'cleave-sdk-'));
    // From a copy, because packing compiles in place, and another run may do so at the same time.
    for (const part of ['libs/sdk', 'scripts/build-sdk.mjs', 'tsconfig.json'])
      await cp(part, join(folder, 'source', part), { recursive: true });
    await mkdir(join(folder, 'source/node_modules'));
    await symlink(resolve('node_modules/typescript'), join(folder, 'source/node_modules/typescript'));
    const packed = await npm(join(folder, 'source/libs/sdk'), 'pack', '--json', '--pack-destination', folder);
    const [{ filename, files }] = JSON.parse(packed.slice(packed.indexOf('['))) as [
      { filename: string; files: { path: string }[] },
    ];
    expect(files.map(({ path }) => path.split('/')[0])).toEqual(expect.arrayContaining(['dist', 'README.md']));
    await writeFile(join(folder, 'package.json'), JSON.stringify({ private: true, type: 'module' }));
    await npm(folder, 'install', '--offline', `./${filename}`);
    shape = await startShape('monolith');
    await writeFile(join(folder, 'examples.mjs'), await examples(shape.baseUrl));
  });
  afterAll(async () => {
    await shape?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  const runExamples = async (node: string): Promise<string[]> => {
    const { stdout, stderr } = await run(node, ['examples.mjs'], { cwd: folder, timeout: 60_000 });
    expect(stderr).toBe('');
    return stdout.trim().split('\n');
  };
  const expected = () => [
    expect.stringMatching(/^\S+ confirmed \d+$/),
    expect.stringMatching(/p-1/),
    'true',
    'true',
    expect.stringMatching(/^\S+ confirmed$/),
  ];

  it('has the version of the project, and no dependencies', async () => {
    const own = JSON.parse(await readFile('package.json', 'utf8')) as { version: string };
    const installed = JSON.parse(await readFile(join(folder, 'node_modules/@cleave/sdk/package.json'), 'utf8')) as {
      version: string;
    };
    expect(installed).toMatchObject({ version: own.version, license: 'Apache-2.0', type: 'module' });
    expect(installed).not.toHaveProperty('dependencies');
    const listed = JSON.parse(await npm(folder, 'ls', '--all', '--json')) as { dependencies: object };
    expect(Object.keys(listed.dependencies)).toEqual(['@cleave/sdk']);
  });

  it('runs the examples of its README in plain JavaScript', async () => {
    expect((await runExamples(process.execPath)).slice(0, 5)).toEqual(expected());
  });

  it.each(['bundler', 'nodenext'])('has types that work with the module resolution %s', async (moduleResolution) => {
    const code = await readFile(join(folder, 'examples.mjs'), 'utf8');
    // The annotation that TypeScript requires for a variable without a value.
    const typed = code.replace('let cursor;', 'let cursor: string | undefined;');
    const wrong = [
      ['cleave.orders.get();', 2554],
      ['cleave.orders.place({ customer_id: 1.5, product: 2 });', 2353],
      ['(await cleave.orders.get("o")).nothing;', 2339],
    ] as const;
    const text = [typed, ...wrong.map(([statement]) => statement)].join('\n');
    await writeFile(join(folder, 'examples.ts'), text);
    const options = [
      ...['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--target', 'es2022'],
      ...['--lib', 'es2022,dom,dom.iterable,dom.asynciterable', '--types', 'node'],
      ...['--typeRoots', resolve(root, 'node_modules/@types')],
      ...['--module', moduleResolution === 'bundler' ? 'preserve' : 'nodenext', '--moduleResolution', moduleResolution],
    ];
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const told = await run(process.execPath, [tsc, ...options, 'examples.ts'], { cwd: folder }).then(
      ({ stdout }) => stdout,
      (error: { stdout: string }) => error.stdout,
    );
    const lines = typed.split('\n').length;
    const errors = [...told.matchAll(/^(\S+)\((\d+),\d+\): error TS(\d+)/gm)].map(([, file, line, code]) => [
      file,
      Number(line) - lines,
      Number(code),
    ]);
    expect(errors).toEqual(wrong.map(([, code], at) => ['examples.ts', at + 1, code]));
  });

  it('can be required from CommonJS, also by TypeScript that resolves like node10', async () => {
    const text = `import { Cleave } from '@cleave/sdk';
      const orders: AsyncIterable<{ order_id: string }> = new Cleave({ baseUrl: 'http://127.0.0.1:3000' }).orders.list();
      console.log(typeof orders);`;
    await writeFile(join(folder, 'common.cts'), text);
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const options = [
      ...['--strict', '--target', 'es2022', '--lib', 'es2022,dom,dom.asynciterable', '--types', 'node'],
      ...['--typeRoots', resolve(root, 'node_modules/@types')],
      ...['--module', 'commonjs', '--moduleResolution', 'node10', '--ignoreDeprecations', '6.0'],
    ];
    await run(process.execPath, [tsc, ...options, 'common.cts'], { cwd: folder });
    expect(await run(process.execPath, ['common.cjs'], { cwd: folder })).toEqual({ stdout: 'object\n', stderr: '' });
  });

  if (majors.length > 0)
    it.each(majors)('runs the examples on Node %i', async (major) => {
      const home = join(folder, `node-${major}`);
      await mkdir(home);
      const name = `node-${process.platform}-${process.arch}`;
      await npm(home, 'install', '--prefix', home, `${name}@${major}`);
      const node = join(home, 'node_modules', name, 'bin', 'node');
      const { stdout } = await run(node, ['--version']);
      console.log(`the package on Node ${stdout.trim()}`);
      expect(stdout).toMatch(new RegExp(`^v${major}\\.`));
      expect((await runExamples(node)).slice(0, 4)).toEqual(expected().slice(0, 4));
    });
});
