import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { compileCacheOf } from './app-process.js';

/**
 * Runs the `main.js` of apps one after the other in one process, each with an environment that it refuses: loading the
 * modules of an app takes a second, and reading an environment takes a few milliseconds.
 */
const program = `
  for (const it of [process, process.stdout, process.stderr]) it.setMaxListeners(0);
  process.on('message', ({ url, env }) => {
    process.env = env;
    let output = '';
    process.stdout.write = process.stderr.write = (text) => Boolean((output += text));
    process.exit = (code) => process.send({ code, output });
    import(url).catch((error) => process.send({ code: 'none', output: error.stack }));
  });
`;

const loader = (): ChildProcess => {
  const stdio = ['ignore', 'ignore', 'inherit', 'ipc'] as const;
  const started = spawn(process.execPath, ['--eval', program], { env: compileCacheOf('.'), stdio: [...stdio] });
  // It ends with the channel, that is, when this process ends.
  started.unref();
  started.channel?.unref();
  return started;
};

let child: ChildProcess | undefined;
let starts = 0;

/** What an app would exit with, and what it writes, in an environment that keeps it from starting. */
export interface RefusedStart {
  code: unknown;
  output: string;
}

/**
 * Starts an app with an environment that it must refuse. Only one at a time.
 *
 * @param main such as `dist/apps/order/src/main.js`
 */
export const refusedStart = async (main: string, env: Record<string, string>): Promise<RefusedStart> => {
  if (!existsSync(main)) throw new Error(`${main} is missing: run npm run build first`);
  child ??= loader();
  starts += 1;
  // With a query of its own, the program runs again; what it imports is already loaded.
  child.send({ url: `${pathToFileURL(resolve(main)).href}?start=${starts}`, env });
  const [refused] = (await once(child, 'message')) as [RefusedStart];
  return refused;
};
