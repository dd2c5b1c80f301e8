import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

/** A small project with the real configuration of this one. */
const furniture: Record<string, string> = {
  'libs/contracts/src/index.ts': `import 'zod'; export const limits = { lines: 1 };`,
  'libs/messaging/src/index.ts': `import '@nestjs/microservices'; export const messaging = 1;`,
  'libs/testing/src/index.ts': `import 'fast-check'; import '#messaging'; export const testing = 1;`,
  'libs/inventory/src/index.ts': `export * from './domain/stock.js';`,
  'libs/inventory/src/domain/stock.ts': `export const stock = 1;`,
  'libs/inventory/migrations/1-stock.ts': `export const table = 'stock';`,
  'libs/order/src/index.ts': `export * from './transport/orders.controller.js';`,
  'libs/order/src/domain/order.ts': `import 'node:crypto'; import { limits } from '#contracts'; export const lines = limits.lines;`,
  'libs/order/src/domain/g.ts': `import './f.js';`,
  'libs/order/src/use-cases/place-order.ts': `import '@nestjs/common'; import '#messaging'; export * from '../domain/order.js';`,
  'libs/order/src/adapters/postgres-orders.ts': `import 'pg'; import 'typeorm'; export * from '../use-cases/place-order.js';`,
  'libs/order/src/transport/orders.controller.ts': `import '@nestjs/swagger'; export * from '../use-cases/place-order.js';`,
  'libs/order/test/order.spec.ts': `import '../src/adapters/postgres-orders.js'; import '#testing';`,
  'apps/order/src/main.ts': `import '#order'; import './app.module.js';`,
  'apps/order/src/app.module.ts': `import '@nestjs/common'; import '#messaging'; export const app = 1;`,
  'test/system.spec.ts': `import '#testing'; import '#contracts';`,
};

/** Files with one forbidden import each, and the rule that forbids it. */
const refused: [file: string, text: string, wall: string][] = [
  ['libs/order/src/use-cases/a.ts', `import '#inventory';`, 'feature-to-feature'],
  ['libs/order/src/use-cases/b.ts', `export const b = () => import('#inventory');`, 'feature-to-feature'],
  ['libs/order/src/use-cases/c.ts', `export type { stock } from '#inventory';`, 'feature-to-feature'],
  ['libs/order/test/a.spec.ts', `import '#inventory';`, 'feature-to-feature'],
  ['libs/order/src/adapters/a.ts', `import '../../../inventory/src/domain/stock.js';`, 'by-the-door'],
  ['libs/order/src/adapters/b.ts', `import '../../../messaging/src/index.js';`, 'by-the-door'],
  ['libs/order/src/adapters/c.ts', `import '../../../inventory/migrations/1-stock.js';`, 'by-the-door'],
  ['libs/order/src/adapters/d.ts', `import '../../../../apps/order/src/app.module.js';`, 'by-the-door'],
  ['apps/order/src/a.ts', `import '../../../libs/order/src/domain/order.js';`, 'by-the-door-from-outside'],
  ['test/a.spec.ts', `import '../libs/order/src/domain/order.js';`, 'by-the-door-from-outside'],
  ['scripts/a.ts', `import '../libs/order/src/index.js';`, 'by-the-door-from-outside'],
  ['test/b.spec.ts', `import '../apps/order/src/app.module.js';`, 'apps-are-not-imported'],
  ['apps/gateway/src/a.ts', `import '../../order/src/app.module.js';`, 'apps-are-not-imported'],
  ['libs/messaging/src/a.ts', `import '#order';`, 'technique-knows-no-feature'],
  ['libs/contracts/src/a.ts', `import '@nestjs/common';`, 'contracts-stay-data'],
  ['libs/contracts/src/b.ts', `import '#messaging';`, 'contracts-stay-data'],
  ['libs/order/src/domain/a.ts', `import '@nestjs/common';`, 'domain-is-pure'],
  ['libs/order/src/domain/b.ts', `import 'node:fs';`, 'domain-is-pure'],
  ['libs/order/src/domain/c.ts', `import 'pg';`, 'domain-is-pure'],
  ['libs/order/src/domain/d.ts', `import '#messaging';`, 'domain-is-pure'],
  ['libs/order/src/domain/e.ts', `import type { lines } from '../use-cases/place-order.js';`, 'domain-is-pure'],
  ['libs/order/src/use-cases/d.ts', `import '../adapters/postgres-orders.js';`, 'use-cases-name-ports'],
  ['libs/order/src/use-cases/e.ts', `import '../transport/orders.controller.js';`, 'use-cases-name-ports'],
  ['libs/order/src/use-cases/f.ts', `import 'typeorm';`, 'use-cases-name-ports'],
  ['libs/order/src/use-cases/g.ts', `import type { Pool } from 'pg';`, 'use-cases-name-ports'],
  ['libs/order/src/transport/a.ts', `import '../adapters/postgres-orders.js';`, 'transport-calls-use-cases'],
  ['libs/order/src/adapters/e.ts', `import '../transport/orders.controller.js';`, 'adapters-know-no-transport'],
  ['libs/order/src/adapters/f.ts', `import '#testing';`, 'tests-stay-outside'],
  ['libs/order/src/adapters/g.ts', `import '../../test/order.spec.js';`, 'tests-stay-outside'],
  ['libs/order/src/adapters/h.ts', `import 'fast-check';`, 'no-development-package-in-production'],
  ['libs/order/src/adapters/i.ts', `import '../../../../dist/libs/inventory/src/index.js';`, 'source-not-output'],
  ['libs/order/src/domain/f.ts', `import './g.js';`, 'no-cycle'],
  ['libs/order/src/adapters/l.ts', `import '#nowhere';`, 'resolvable'],
];

/** Imports that the compiler itself does not resolve. */
const uncompilable: [file: string, specifier: string][] = [
  ['libs/order/src/adapters/m.ts', '#inventory/domain/stock.js'],
  ['libs/order/src/adapters/n.ts', '#inventory/src/domain/stock.js'],
  ['apps/order/src/b.ts', '#order/domain/order.js'],
  ['test/c.spec.ts', '#order/index.js'],
];

let house: string;

const put = async (file: string, text: string): Promise<void> => {
  await mkdir(dirname(join(house, file)), { recursive: true });
  await writeFile(join(house, file), text);
};

/** The output of a tool on that project; it exits with an error if it finds one. */
const said = (tool: string, ...options: string[]): Promise<string> =>
  new Promise((resolve) => {
    const program = join(process.cwd(), 'node_modules', tool);
    execFile(process.execPath, [program, ...options], { cwd: house, maxBuffer: 2 ** 26 }, (_error, stdout) =>
      resolve(stdout),
    );
  });

beforeAll(async () => {
  house = await mkdtemp(join(tmpdir(), 'walls-'));
  for (const file of ['package.json', 'tsconfig.json', '.dependency-cruiser.js'])
    await cp(join(process.cwd(), file), join(house, file));
  await symlink(join(process.cwd(), 'node_modules'), join(house, 'node_modules'), 'junction');
  await put('dist/libs/inventory/src/index.js', 'export const stock = 1;');
  for (const [file, text] of Object.entries(furniture)) await put(file, text);
  for (const [file, text] of refused) await put(file, text);
});

afterAll(() => rm(house, { recursive: true, force: true }));

describe('the module rules', () => {
  let violations: { from: string; rule: { name: string } }[];

  beforeAll(async () => {
    const report = await said(
      'dependency-cruiser/bin/dependency-cruiser.mjs',
      ...['--config', '.dependency-cruiser.js', '--output-type', 'json', 'apps', 'libs', 'scripts', 'test'],
    );
    ({ violations } = (JSON.parse(report) as { summary: { violations: typeof violations } }).summary);
  });

  it.each(refused)('refuse in %s: %s (%s)', (file, _text, wall) => {
    expect(violations.filter(({ from }) => from === file).map(({ rule }) => rule.name)).toContain(wall);
  });

  it('allow all other imports', () => {
    expect(violations.filter(({ from }) => from in furniture)).toEqual([]);
  });
});

describe('the compiler', () => {
  it('resolves the entry point of each module, and no path inside', async () => {
    for (const [file, specifier] of uncompilable)
      await put(file, `import * as inside from '${specifier}'; void inside;`);
    const report = await said('typescript/bin/tsc', '-p', 'tsconfig.json', '--noEmit', '--incremental', 'false');
    const notFound = report.split('\n').filter((line) => line.includes('TS2307') || line.includes('TS2882'));
    for (const [file, specifier] of uncompilable)
      expect(notFound).toContainEqual(expect.stringMatching(`^${file}.*'${specifier}'`));
    expect(notFound.filter((line) => Object.keys(furniture).some((file) => line.startsWith(file)))).toEqual([]);
  });
});
