import { z } from 'zod';
import { findMisspellings } from './misspellings.js';

/** What is wrong with one environment variable, for the person who starts the program. */
export interface VariableFault {
  variable: string;
  /** What was given and what would be right; never a password. */
  message: string;
}

/** The environment cannot be used. The message lists every fault, one a line. */
export class ConfigurationError extends Error {
  override readonly name = 'ConfigurationError';

  constructor(readonly faults: VariableFault[]) {
    super(
      ['The environment is not right. Correct these variables and start again:']
        .concat(faults.map(({ variable, message }) => `  ${variable}: ${message}`))
        .join('\n'),
    );
  }
}

type Environment = Record<string, string | undefined>;

/**
 * Parses the variables that `shape` names; all others are ignored, unless one looks like a misspelling of a variable
 * that is missing. An empty variable counts as unset.
 *
 * @throws ConfigurationError naming every fault
 */
export const readEnvironment = <const Shape extends Record<string, z.ZodType>>(
  shape: Shape,
  source: Environment = process.env,
): z.output<z.ZodObject<Shape>> => {
  const given: Environment = {};
  for (const variable of Object.keys(shape)) given[variable] = source[variable] || undefined;
  const parsed = z.object(shape).safeParse(given);
  const faults = [
    ...(parsed.success ? [] : faultsOf(parsed.error, given)),
    ...findMisspellings(Object.keys(shape), source).map(({ variable, meant }) => ({
      variable,
      message: `is not known; did you mean ${meant}?`,
    })),
  ];
  if (faults.length > 0 || !parsed.success) throw new ConfigurationError(faults);
  return parsed.data;
};

const faultsOf = (error: z.ZodError, given: Environment): VariableFault[] => {
  const byVariable = new Map<string, string[]>();
  for (const issue of error.issues) {
    const variable = String(issue.path[0]);
    byVariable.set(variable, [...(byVariable.get(variable) ?? []), issue.message]);
  }
  return [...byVariable].map(([variable, messages]) => {
    const value = given[variable];
    if (value === undefined) return { variable, message: `is not set; ${messages.join('; ')}` };
    const shown = presentable(variable, value);
    // A schema may quote the value in its message.
    return { variable, message: `${shown} is not right; ${messages.join('; ').replaceAll(value, () => shown)}` };
  });
};

/**
 * The value as it may be printed. Passwords hide in addresses (`scheme://user:password@host`, or in a query), often
 * just when the address is malformed: of an address only the parts that are certainly not secret are shown.
 */
const presentable = (variable: string, value: string): string => {
  if (/SECRET|PASSWORD|TOKEN|KEY/i.test(variable)) return 'the value given (not shown)';
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(value)?.[0];
  if (scheme) {
    const bare = value.slice(scheme.length);
    const hostsOnly = /^[\w.[\]:-]+(?:,[\w.[\]:-]+)*$/.test(bare) && !/:(?!\d{1,5}(?:,|$)|[^,]*\])/.test(bare);
    if (hostsOnly) return JSON.stringify(value);
    return JSON.stringify(`${scheme}${URL.canParse(value) ? withoutSecrets(new URL(value)) : '…'}`);
  }
  if (value.includes('@')) return 'the value given (not shown, it may hold a password)';
  return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
};

const withoutSecrets = (url: URL): string => {
  if (url.pathname.includes('@')) return '…';
  return `${url.username || url.password ? '***@' : ''}${url.host}${url.pathname}${url.search ? '?…' : ''}`;
};
