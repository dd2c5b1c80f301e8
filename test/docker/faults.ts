import { refusedStart } from '../support/refused-start.js';

/** Many services have the same environment, so an app is started only once for each. */
const found = new Map<string, Promise<string[]>>();

/** Starts an app with an environment that it must refuse. @returns the variables that it reports */
export const faultsOf = (main: string, env: Record<string, string>): Promise<string[]> => {
  const start = JSON.stringify([main, env]);
  const faults = found.get(start) ?? refusalOf(main, env);
  found.set(start, faults);
  return faults;
};

const refusalOf = async (main: string, env: Record<string, string>): Promise<string[]> => {
  const { code, output } = await refusedStart(main, env);
  if (code !== 1) throw new Error(`${main} did not refuse its environment, but ended with ${String(code)}: ${output}`);
  return [...output.matchAll(/^ {2}([A-Z_]+): /gm)].map(([, variable]) => variable as string);
};

/** Variables that accept any text are read together with these. */
const readBeside: Record<string, string> = { OIDC_AUDIENCE: 'OIDC_ISSUER', OIDC_TENANT_CLAIM: 'OIDC_ISSUER' };

/** Finds variables that the app does not read: it does not report an invalid value for them. */
export const unreadBy = async (main: string, variables: string[]): Promise<string[]> => {
  const refused = await faultsOf(main, Object.fromEntries(variables.map((variable) => [variable, '!'])));
  // DATABASE_URL is reported as the address of each module that has none of its own.
  return variables.filter((variable) => {
    const checked = readBeside[variable] ?? variable;
    return !refused.some((it) => it === checked || it.endsWith(`_${checked}`));
  });
};
