// Compiles what has changed, without checking types (`npm run check` does), and runs one of the programs in this very
// process, so that signals reach it: node scripts/compile-and-run.mjs dist/apps/monolith/src/main.js [arguments]
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 12)) {
  console.error(
    `Cleave runs on Node 22.12 or later; this is ${process.versions.node}. ` +
      'Put `npx` in front: `npx node …` is the Node 24 that npm installed. On Apple silicon install it yourself.',
  );
  process.exit(1);
}

// Whoever tells npm to stop tells its shell, which ends and says nothing to us.
if (process.env.npm_lifecycle_event) {
  const { ppid } = process;
  const watch = setInterval(() => {
    if (process.ppid === ppid) return;
    clearInterval(watch);
    process.kill(process.pid, 'SIGTERM');
  }, 500).unref();
}

const program = resolve(process.argv[2]);
if (!existsSync(program)) console.error('Compiling, the first time takes a few seconds …');
const { status } = spawnSync(
  process.execPath,
  ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json', '--noCheck'],
  {
    stdio: 'inherit',
  },
);
if (status !== 0) process.exit(status ?? 1);

process.setSourceMapsEnabled(true);
process.argv.splice(1, 2, program);
await import(pathToFileURL(program).href);
