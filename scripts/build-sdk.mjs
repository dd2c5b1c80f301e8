// Compiles libs/sdk to what is published of it: JavaScript and types that need nothing else of this repository.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

rmSync(`${root}/libs/sdk/dist`, { recursive: true, force: true });
execFileSync(process.execPath, [`${root}/node_modules/typescript/bin/tsc`, '-p', `${root}/libs/sdk/tsconfig.json`], {
  stdio: 'inherit',
});
// npm puts the licence of a package into it, from its own folder only.
if (existsSync(`${root}/LICENSE`)) copyFileSync(`${root}/LICENSE`, `${root}/libs/sdk/LICENSE`);
