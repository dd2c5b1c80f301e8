import { spawn, spawnSync, type SpawnSyncReturns } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, realpath, rm, utimes, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { afterEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { eventually, redisOrSkip, startRedis, testDatabase } from '#testing';
import { Api, ok } from '../support/api.js';
import { AppProcess, guardFolder, unguardFolder } from '../support/app-process.js';
import { refusedStart } from '../support/refused-start.js';
import { servicePorts } from '../support/shapes.js';

describe('a start that fails', () => {
  const started: AppProcess[] = [];
  afterEach(async () => {
    await Promise.all(started.splice(0).map((it) => it.stop()));
  });

  /** The error message of an app that cannot start. */
  const complaintOf = async (app: string, environment: Record<string, string>): Promise<string> => {
    const process = new AppProcess(app, environment);
    started.push(process);
    process.spawn();
    expect(await process.exit).toEqual({ code: 1, signal: null });
    const stack = process.log.split('\n').filter((line) => /^\s+at .*:\d+/.test(line));
    expect(stack).toEqual([]);
    return process.log;
  };

  /** The same for settings that are refused before anything starts. */
  const settingsRefused = async (app: string, environment: Record<string, string>): Promise<string> => {
    const { code, output } = await refusedStart(`dist/apps/${app}/src/main.js`, environment);
    expect([code, output]).toEqual([1, expect.not.stringMatching(/^\s+at .*:\d+/m)]);
    return output;
  };

  it('reports every invalid variable of the monolith at once, without the password in a URL', async () => {
    const said = await complaintOf('monolith', {
      PORT: 'abc',
      HOST: 'no host',
      DATABASE_URL: 'mysql://root:secret@db/x',
      INVENTORY_AT: 'ftp://nowhere',
      CACHE_REDIS_URL: 'localhost:6379',
      CACHE_MAX_BYTES: '1',
      INVENTORY_BALANCE: 'fair',
    });
    for (const variable of [
      'PORT',
      'HOST',
      'DATABASE_URL',
      'INVENTORY_AT',
      'CACHE_REDIS_URL',
      'CACHE_MAX_BYTES',
      'INVENTORY_BALANCE',
    ])
      expect(said).toMatch(new RegExp(`^ *${variable}: \\S`, 'm'));
    expect(said.match(/DATABASE_URL: /g)).toHaveLength(1);
    expect(said).not.toContain('secret');
  });

  it.each([
    [
      'order',
      { PORT: '99999', ORDER_LISTEN: 'x' },
      ['PORT', 'ORDER_LISTEN', 'ORDER_DATABASE_URL', 'INVENTORY_AT', 'PAYMENT_AT'],
    ],
    [
      'payment',
      { PAYMENT_LISTEN: 'http://x', STRIPE_SECRET_KEY: 'pk_live_x', STRIPE_WEBHOOK_SECRET: 'x' },
      ['PAYMENT_DATABASE_URL', 'PAYMENT_LISTEN', 'STRIPE_SECRET_KEY', 'STRIPE_WEBHOOK_SECRET'],
    ],
    ['order', { INVENTORY_TA: 'tcp://127.0.0.1:1' }, ['ORDER_DATABASE_URL', 'INVENTORY_AT', 'INVENTORY_TA']],
    [
      'monolith',
      { DATABSE_URL: 'postgres://db/x', DATA_DRI: 'x', INVENTRY_AT: 'x' },
      ['DATABSE_URL', 'DATA_DRI', 'INVENTRY_AT'],
    ],
    [
      'webhooks',
      { ORDER_AT: 'http://x', WEBHOOKS_ALLOW_PRIVATE: 'perhaps' },
      ['WEBHOOKS_DATABASE_URL', 'ORDER_AT', 'WEBHOOKS_ALLOW_PRIVATE'],
    ],
    ['sales', { ORDER_AT: 'http://x' }, ['SALES_DATABASE_URL', 'ORDER_AT', 'INVENTORY_AT']],
    ['inventory', { INVENTORY_LISTEN: 'tcp://a:1,b:2' }, ['INVENTORY_DATABASE_URL', 'CACHE_AT', 'INVENTORY_LISTEN']],
    ['cache', { CACHE_LISTEN: 'http://x', CACHE_MAX_BYTES: 'lots' }, ['CACHE_LISTEN', 'CACHE_MAX_BYTES']],
    [
      'gateway',
      { CACHE_URL: 'x' },
      ['ORDER_URL', 'INVENTORY_URL', 'CACHE_URL', 'PAYMENT_URL', 'SALES_URL', 'WEBHOOKS_URL'],
    ],
  ])('reports every invalid, missing or misspelt variable of %s: %j', async (app, environment, variables) => {
    const said = await settingsRefused(app, environment);
    for (const variable of variables) expect(said).toMatch(new RegExp(`^ *${variable}: \\S`, 'm'));
  });

  it('reports the unit and range of a number, and a data directory that cannot be used', async () => {
    const limits = await settingsRefused('cache', { CACHE_MAX_BYTES: 'lots', CACHE_REDIS_DEADLINE_MS: '60001' });
    expect(limits).toMatch(/CACHE_MAX_BYTES: "lots" .* bytes, at least 4194304/);
    expect(limits).toMatch(/CACHE_REDIS_DEADLINE_MS: "60001" .* milliseconds from 1 to 60000/);
    const [port] = await servicePorts(1);
    const file = join(import.meta.dirname, 'start.spec.ts');
    // In /proc, Linux answers ENOENT when something is created.
    for (const DATA_DIR of [file, ...(process.platform === 'linux' ? ['/proc', '/proc/below'] : [])]) {
      const said = await settingsRefused('monolith', { PORT: String(port), DATA_DIR });
      expect(said).toMatch(/Data cannot be kept in .* \(E[A-Z]+: .*\)\. Set DATA_DIR .*DATABASE_URL/);
      expect(said).toContain(`Data cannot be kept in ${DATA_DIR} `);
    }
  });

  it('reports which port is in use', async () => {
    const blocker = createServer().listen(0, '127.0.0.1');
    await once(blocker, 'listening');
    const { port } = blocker.address() as { port: number };
    const [free] = await servicePorts(1);
    const inUse = new RegExp(`\\b${port}\\b.*\\bin use\\b|\\bin use\\b.*\\b${port}\\b`);
    try {
      const rest = await complaintOf('cache', { PORT: String(port), CACHE_LISTEN: `tcp://127.0.0.1:${free}` });
      expect(rest).toMatch(inUse);
      expect(rest).toMatch(/\bPORT\b/);
      expect(rest.match(/EADDRINUSE/g)).toHaveLength(1);
      const messages = { PORT: String(free), CACHE_LISTEN: `tcp://127.0.0.1:${port}` };
      const said = await complaintOf('cache', messages);
      expect(said.trimEnd().split('\n').at(-1)).toMatch(inUse);
      expect(said).not.toContain('EADDRINUSE');
    } finally {
      blocker.close();
    }
  });

  it('reports a database that cannot be used, without its password', async () => {
    const database = await testDatabase();
    try {
      const url = new URL(database.url);
      url.pathname = '/no_such_database';
      const [port] = await servicePorts(1);
      const common = { PORT: String(port), INVENTORY_AT: 'tcp://127.0.0.1:1', PAYMENT_AT: 'tcp://127.0.0.1:1' };
      const missing = await complaintOf('order', { ...common, DATABASE_URL: url.href });
      expect(missing).toMatch(/no_such_database/);
      expect(missing).toMatch(/ORDER_DATABASE_URL/);
      const locked = new URL(database.url);
      locked.password = 'not-the-password';
      const refusedAt = await complaintOf('order', { ...common, DATABASE_URL: locked.href });
      expect(refusedAt).toMatch(/password authentication failed/);
      expect(refusedAt).toMatch(/ORDER_DATABASE_URL/);
      for (const said of [missing, refusedAt]) {
        expect(said).not.toContain('not-the-password');
        expect(said).not.toContain(decodeURIComponent(url.password));
      }
    } finally {
      await database.stop();
    }
  });

  it('does not encrypt an external database with a key from its own data directory', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'cleave-e2e-'));
    guardFolder(dataDir);
    const database = await testDatabase();
    try {
      const [port] = await servicePorts(1);
      const process = new AppProcess('monolith', {
        ...{ DATA_DIR: dataDir, PORT: String(port), WEBHOOKS_ALLOW_PRIVATE: 'true' },
        WEBHOOKS_DATABASE_URL: database.url,
      });
      started.push(process);
      process.spawn();
      const api = new Api(`http://127.0.0.1:${port}`);
      await process.untilReady(`${api.baseUrl}/health/ready`);
      const order = { customer_id: 'c-1', product_id: 'demo-mug', quantity: 1, contact: { email: 'a@example.com' } };
      ok(await api.send('POST', '/orders', { body: order }), 201);
      const body = { url: 'http://127.0.0.1:1/' };
      const { secret } = ok(await api.send<{ secret: string }>('POST', '/webhook-endpoints', { body }), 201);
      const client = new pg.Client(database.url);
      await client.connect();
      const { rows } = await client.query<{ secrets: unknown }>('SELECT secrets FROM webhooks.endpoints');
      await client.end();
      expect(rows).toEqual([{ secrets: [{ secret }] }]);
      expect(process.log).toContain('the secrets of webhooks are stored unencrypted in the database');
      expect(await process.stop()).toBeUndefined();
    } finally {
      await database.stop();
      await rm(dataDir, { recursive: true, force: true, maxRetries: 5 });
      unguardFolder(dataDir);
    }
  });

  it('reports which process already uses the data directory, and does not disturb it', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'cleave-e2e-'));
    guardFolder(dataDir);
    try {
      const [port, other] = await servicePorts(2);
      const first = new AppProcess('monolith', { DATA_DIR: dataDir, PORT: String(port), LOG_FORMAT: 'text' });
      started.push(first);
      first.spawn();
      await first.untilReady(`http://127.0.0.1:${port}/health/ready`);
      // The command that the log suggests works as printed.
      const api = new Api(`http://127.0.0.1:${port}`);
      expect(first.log).toContain(api.baseUrl);
      const told = /-d '(\{[^']*customer_id[^']*\})'/.exec(first.log)?.[1];
      ok(await api.send('POST', '/orders', { raw: told! }), 201);
      const said = await complaintOf('monolith', { DATA_DIR: dataDir, PORT: String(other) });
      expect(said).toContain(String(first.pid));
      expect(said).toContain('DATA_DIR');
      ok(await api.send('POST', '/orders', { raw: told! }), 201);
      expect(await first.stop()).toBeUndefined();
    } finally {
      await rm(dataDir, { recursive: true, force: true, maxRetries: 5 });
      unguardFolder(dataDir);
    }
  });
});

it('a monolith that is stopped while its database starts leaves no Postgres running', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'cleave-e2e-'));
  guardFolder(dataDir);
  const [port] = await servicePorts(1);
  const process = new AppProcess('monolith', { DATA_DIR: dataDir, PORT: String(port) });
  try {
    process.spawn();
    const lock = join(dataDir, 'postgres/data/postmaster.pid');
    // The file exists as soon as the server begins to start; it may have started a quarter of a second later.
    while (process.isRunning && !existsSync(lock)) await setTimeout(5);
    expect(await process.kill('SIGINT')).toEqual({ code: 0, signal: null });
    // The server removes the file when it exits.
    await eventually(() => expect(readFile(lock)).rejects.toMatchObject({ code: 'ENOENT' }));
  } finally {
    await process.stop();
    await rm(dataDir, { recursive: true, force: true, maxRetries: 5 });
    unguardFolder(dataDir);
  }
});

describe('a program started with arguments', () => {
  it.each([
    ['migrate', '--help', 0],
    ['monolith', '--port=4000', 1],
  ])('%s %s starts nothing and explains that variables configure it', async (app, argument, code) => {
    const child = spawn(process.execPath, [`dist/apps/${app}/src/main.js`, argument], {
      env: { DATABASE_URL: 'postgres://127.0.0.1:1/nowhere' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const [said, [ended]] = await Promise.all([text(child.stderr), once(child, 'exit')]);
    expect([said, ended]).toEqual([
      expect.stringMatching(/^Cleave takes no arguments.*PORT=4000 npm start.*README\.md/),
      code,
    ]);
  });
});

it('`npm run dev -- --help` starts nothing and explains its arguments', async () => {
  const dataDir = join(tmpdir(), `cleave-never-${process.pid}`);
  const child = spawn(process.execPath, ['dist/scripts/dev.js', '--help'], {
    env: { DATA_DIR: dataDir },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  expect([said, code, existsSync(dataDir)]).toEqual([expect.stringContaining('npx nest start --help'), 0, false]);
});

describe('a service started without its required settings', () => {
  it('reports all of them at once and suggests start:split, which needs none', async () => {
    const { code, output } = await refusedStart('dist/apps/order/src/main.js', {});
    for (const variable of ['ORDER_DATABASE_URL', 'INVENTORY_AT', 'PAYMENT_AT'])
      expect(output).toContain(`  ${variable}: is not set`);
    expect(output).toContain('npm run start:split');
    expect(code).toBe(1);
  });
});

const describeWithRedis = await redisOrSkip(describe);

describeWithRedis('a service that receives requests through Redis', () => {
  it('stays ready but degraded while Redis is down, and recovers when it returns', async () => {
    let redis = await startRedis();
    const [port] = await servicePorts(1);
    const cache = new AppProcess('cache', { PORT: String(port), CACHE_LISTEN: redis.url });
    const api = new Api(`http://127.0.0.1:${port}`);
    const readiness = async (): Promise<unknown> => ok(await api.get('/health/ready'));
    try {
      cache.spawn();
      await cache.untilReady(`${api.baseUrl}/health/ready`);
      expect(await readiness()).toMatchObject({ status: 'ok', details: { 'redis-messages': { status: 'up' } } });
      await redis.kill();
      const isAway = { status: 'degraded', redis: 'is unreachable' };
      await eventually(async () =>
        expect(await readiness()).toMatchObject({ status: 'degraded', details: { 'redis-messages': isAway } }),
      );
      redis = await startRedis({ port: redis.port });
      await eventually(async () => expect(await readiness()).toMatchObject({ status: 'ok' }));
      expect(await cache.stop()).toBeUndefined();
    } finally {
      await cache.stop();
      await redis.stop();
    }
  });
});

describe('a program started by npm', () => {
  it('receives SIGTERM, although npm signals only its shell', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'cleave-e2e-'));
    // Nothing is compiled in this folder.
    await mkdir(join(folder, 'node_modules/typescript/bin'), { recursive: true });
    await writeFile(join(folder, 'node_modules/typescript/bin/tsc'), '');
    await mkdir(join(folder, 'dist'));
    const program = join(folder, 'dist/program.mjs');
    await writeFile(
      program,
      `process.once('SIGTERM', () => { console.log('told'); process.exit(); });
      setInterval(() => {}, 1_000);
      console.log('started');`,
    );
    // The trailing command keeps the shell from replacing itself with the program.
    const shell = spawn(
      'sh',
      ['-c', `"${process.execPath}" "${resolve('scripts/compile-and-run.mjs')}" "${program}"; true`],
      {
        cwd: folder,
        env: { ...process.env, npm_lifecycle_event: 'start' },
        stdio: ['ignore', 'pipe', 'inherit'],
        detached: true,
      },
    );
    try {
      let output = '';
      const ended = once(shell.stdout, 'close');
      await new Promise<void>((resolve) => {
        shell.stdout.setEncoding('utf8').on('data', (text: string) => {
          output += text;
          if (output.includes('started')) resolve();
        });
      });
      shell.kill('SIGTERM');
      await ended;
      expect(output).toBe('started\ntold\n');
    } finally {
      try {
        process.kill(-shell.pid!, 'SIGKILL');
      } catch (error) {
        expect(error).toMatchObject({ code: 'ESRCH' });
      }
      await rm(folder, { recursive: true, force: true });
    }
  });

  it('is recompiled only after a change, and does not run if it does not compile', async () => {
    const folder = await realpath(await mkdtemp(join(tmpdir(), 'cleave-e2e-')));
    const put = async (path: string, text: string): Promise<void> => {
      await mkdir(dirname(join(folder, path)), { recursive: true });
      await writeFile(join(folder, path), text);
    };
    const started = (): SpawnSyncReturns<string> =>
      spawnSync(process.execPath, [resolve('scripts/compile-and-run.mjs'), 'dist/apps/program.js'], {
        cwd: folder,
        env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: '' },
        encoding: 'utf8',
      });
    const compiler = pathToFileURL(resolve('node_modules/typescript/lib/tsc.js')).href;
    try {
      for (const it of ['libs', 'scripts', 'test']) await mkdir(join(folder, it));
      await put('node_modules/typescript/bin/tsc', `console.log('compiling'); import('${compiler}');`);
      for (const it of ['package.json', 'package-lock.json']) await put(it, '{ "type": "module" }');
      // With all usual declarations, most of the time would go into reading them, a dozen times.
      const options = { module: 'nodenext', target: 'es2024', lib: ['es5'], types: [], rootDir: '.', outDir: 'dist' };
      await put('tsconfig.json', JSON.stringify({ compilerOptions: options, include: ['apps'] }));

      await put('apps/program.ts', `console.log('one' as string);`);
      expect(started()).toMatchObject({ stdout: 'compiling\none\n', status: 0 });
      expect(started()).toMatchObject({ stdout: 'one\n', status: 0 });

      await put('apps/program.ts', `console.log('two' as string);`);
      // An unpacked archive has old modification times.
      await utimes(join(folder, 'apps/program.ts'), 0, 0);
      expect(started()).toMatchObject({ stdout: 'compiling\ntwo\n', status: 0 });
      expect(started()).toMatchObject({ stdout: 'two\n', status: 0 });

      await put('libs/other.ts', '');
      expect(started()).toMatchObject({ stdout: 'compiling\ntwo\n', status: 0 });
      await rm(join(folder, 'libs/other.ts'));
      expect(started()).toMatchObject({ stdout: 'compiling\ntwo\n', status: 0 });
      // Another build has written to the same folder.
      await put('dist/.tsbuildinfo', '{}');
      expect(started()).toMatchObject({ stdout: 'compiling\ntwo\n', status: 0 });
      await put('node_modules/.package-lock.json', '{}');
      expect(started()).toMatchObject({ stdout: 'compiling\ntwo\n', status: 0 });
      expect(started()).toMatchObject({ stdout: 'two\n', status: 0 });

      // V8's compile cache is written here and nowhere else; a cache that cannot be written is no error.
      const kept = join(folder, 'dist/compile-cache');
      await put(
        'apps/program.ts',
        `import { getCompileCacheDir } from 'node:module'; console.log(getCompileCacheDir());`,
      );
      expect(started()).toMatchObject({ stdout: expect.stringContaining(`compiling\n${kept}`), status: 0 });
      await put('apps/program.ts', `console.log('two' as string);`);
      expect(started()).toMatchObject({ stdout: 'compiling\ntwo\n', status: 0 });
      await rm(kept, { recursive: true });
      await writeFile(kept, '');
      expect(started()).toMatchObject({ stdout: 'two\n', stderr: '', status: 0 });

      // Code that does not compile does not run, not even the second time.
      await put('apps/program.ts', `console.log('three`);
      for (let time = 0; time < 2; time += 1)
        expect(started()).toMatchObject({ stdout: expect.stringMatching(/^compiling\n[^]*error TS/), status: 2 });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
