import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { compileCacheOf } from '../support/app-process.js';

/** Whole files tell many services the same: an app is started once for each environment. */
const found = new Map<string, Promise<string[]>>();

/** Starts an app with an environment that it must refuse. @returns the variables that it finds fault with */
export const faultsOf = (main: string, env: Record<string, string>): Promise<string[]> => {
  const start = JSON.stringify([main, env]);
  const faults = found.get(start) ?? refusalOf(main, env);
  found.set(start, faults);
  return faults;
};

const refusalOf = async (main: string, given: Record<string, string>): Promise<string[]> => {
  if (!existsSync(main)) throw new Error(`${main} is missing: run npm run build first`);
  const env = { ...compileCacheOf('.'), ...given };
  const app = spawn(process.execPath, [main], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  const [complaint, [code]] = await Promise.all([text(app.stderr), once(app, 'exit')]);
  if (code !== 1) throw new Error(`${main} did not refuse its environment, but ended with ${code}: ${complaint}`);
  return [...complaint.matchAll(/^ {2}([A-Z_]+): /gm)].map(([, variable]) => variable as string);
};

/** What takes any text is read beside what does not. */
const readBeside: Record<string, string> = { OIDC_AUDIENCE: 'OIDC_ISSUER', OIDC_TENANT_CLAIM: 'OIDC_ISSUER' };

/** Which of the variables the app does not read: it has no fault to find with a value that nothing could mean. */
export const unreadBy = async (main: string, variables: string[]): Promise<string[]> => {
  const refused = await faultsOf(main, Object.fromEntries(variables.map((variable) => [variable, '!'])));
  // DATABASE_URL is refused as the address of each module that has no other.
  return variables.filter((variable) => {
    const checked = readBeside[variable] ?? variable;
    return !refused.some((it) => it === checked || it.endsWith(`_${checked}`));
  });
};
