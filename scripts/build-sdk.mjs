// Compiles libs/sdk to the published package: JavaScript and types that need nothing else of this repository.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

rmSync(`${root}/libs/sdk/dist`, { recursive: true, force: true });
execFileSync(process.execPath, [`${root}/node_modules/typescript/bin/tsc`, '-p', `${root}/libs/sdk/tsconfig.json`], {
  stdio: 'inherit',
});
// npm packs a licence only from the package's own folder.
if (existsSync(`${root}/LICENSE`)) copyFileSync(`${root}/LICENSE`, `${root}/libs/sdk/LICENSE`);
