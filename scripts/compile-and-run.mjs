// Compiles what has changed, without type checks (`npm run check` does these), and runs one of the programs in this process,
// so that signals reach it: node scripts/compile-and-run.mjs dist/apps/monolith/src/main.js [arguments]
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import module from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 12)) {
  console.error(
    `Cleave runs on Node 22.12 or later; this is ${process.versions.node}. ` +
      'Put `npx` in front: `npx node …` runs the Node 24 that npm installed. On Apple silicon, install Node yourself.',
  );
  process.exit(1);
}

// A signal to npm ends npm's shell, which does not pass it on: stop when the parent process is gone.
if (process.env.npm_lifecycle_event) {
  const { ppid } = process;
  const watch = setInterval(() => {
    if (process.ppid === ppid) return;
    clearInterval(watch);
    process.kill(process.pid, 'SIGTERM');
  }, 500).unref();
}

// Keeps V8's compile cache for the next start, here, in the compiler and in services started from here. It lies beside the
// code, so that nobody can write to it who cannot change the code; if it is not writable, there is no cache.
process.env.NODE_COMPILE_CACHE ||= resolve('dist/compile-cache');
module.enableCompileCache(process.env.NODE_COMPILE_CACHE);

const sources = ['apps', 'libs', 'scripts', 'test'];
/** npm writes the second one at every install. */
const compiledBy = ['package.json', 'node_modules/.package-lock.json', 'tsconfig.json'];
const noted = 'dist/.compiled-from';

const stampOf = (path) => {
  const { ctimeMs, mtimeMs, size, ino } = statSync(path, { throwIfNoEntry: false }) ?? {};
  return `${path} ${ctimeMs} ${mtimeMs} ${size} ${ino}\n`;
};

/** A hash of the sources and the build configuration; it changes when anything is written, unpacked, renamed or removed. */
const stateOfSources = () => {
  const within = (folder) => readdirSync(folder, { recursive: true }).map((name) => join(folder, name));
  const paths = [...compiledBy, ...sources.filter((it) => existsSync(it)).flatMap(within)].sort();
  return createHash('sha256').update(paths.map(stampOf).join('')).digest('hex');
};

/** Every other compilation to the same place changes this file, and clearing that place removes it. */
const stateOfCompiled = () => stampOf('dist/.tsbuildinfo');

const program = resolve(process.argv[2]);
const state = stateOfSources();
if (!existsSync(program) || !existsSync(noted) || readFileSync(noted, 'utf8') !== state + stateOfCompiled()) {
  console.error(
    existsSync(program) ? 'Compiling what has changed …' : 'Compiling, the first time takes up to half a minute …',
  );
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json', '--noCheck'],
    {
      stdio: 'inherit',
    },
  );
  if (status !== 0) process.exit(status ?? 1);
  try {
    writeFileSync(noted, state + stateOfCompiled());
  } catch (error) {
    // Without write access it compiles at each start; a read-only installation is compiled completely.
    if (!['EACCES', 'EPERM', 'EROFS', 'ENOSPC', 'EDQUOT'].includes(error.code)) throw error;
  }
}

// Those of packages are left out where Node can: reading them takes a twelfth of the time of a start.
if (module.setSourceMapsSupport) module.setSourceMapsSupport(true);
else process.setSourceMapsEnabled(true);
process.argv.splice(1, 2, program);
await import(pathToFileURL(program).href);
