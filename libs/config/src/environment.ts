import { Logger } from '@nestjs/common';
import { z } from 'zod';
import { findMisspellings, findNearNames } from './misspellings.js';

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
      ['Settings are missing or wrong. Correct these environment variables and start again:']
        .concat(faults.map(({ variable, message }) => `  ${variable}: ${message}`))
        .join('\n'),
    );
  }
}

export type Environment = Record<string, string | undefined>;

/** Substitutes for variables that are not set. */
export interface StandIns {
  /** The variable that is read instead, such as `{ ORDER_DATABASE_URL: 'DATABASE_URL' }`. */
  fallbacks?: Record<string, string>;
  /** The text that is parsed if neither the variable nor its fallback is set. */
  defaults?: Record<string, string>;
}

/**
 * Parses the variables that `shape` names. All others are ignored, with two exceptions: one that looks like a misspelling
 * of a missing variable is a fault, and one with a merely similar name is logged. An empty variable counts as unset.
 *
 * @throws ConfigurationError naming every fault
 */
export const readEnvironment = <const Shape extends Record<string, z.ZodType>>(
  shape: Shape,
  source: Environment = process.env,
  { fallbacks = {}, defaults = {} }: StandIns = {},
): z.output<z.ZodObject<Shape>> => {
  const settings = Object.keys(shape).map((variable): Setting => {
    const fallback = source[variable] ? undefined : fallbacks[variable];
    const value = source[variable] || source[fallback ?? ''] || defaults[variable];
    return { variable, fallback, value };
  });
  const parsed = z
    .object(shape)
    .safeParse(Object.fromEntries(settings.map(({ variable, value }) => [variable, value])));
  const known = [...Object.keys(shape), ...Object.values(fallbacks)];
  const faults = [
    ...(parsed.success ? [] : faultsOf(parsed.error, settings)),
    ...findMisspellings(known, source).map(({ variable, meant }) => ({
      variable,
      message: `is not known; did you mean ${meant}?`,
    })),
  ];
  if (faults.length > 0 || !parsed.success) throw new ConfigurationError(faults);
  for (const { variable, meant } of findNearNames(known, source)) {
    const message = `${variable} is set, but nothing here reads it; did you mean ${meant}?`;
    new Logger('Configuration').warn(message, { code: 'variable-not-read' });
  }
  return parsed.data;
};

/** A variable and what was found for it. */
interface Setting {
  variable: string;
  /** The variable that is read instead, if this one is not set. */
  fallback: string | undefined;
  value: string | undefined;
}

const faultsOf = (error: z.ZodError, settings: Setting[]): VariableFault[] => {
  const faults = settings.flatMap(({ variable, fallback, value }): VariableFault[] => {
    const messages = error.issues.filter(({ path }) => path[0] === variable).map(({ message }) => message);
    if (messages.length === 0) return [];
    if (value === undefined) {
      const instead = fallback ? ` (or ${fallback})` : '';
      return [{ variable, message: [`is not set${instead}`, ...messages].join('; ') }];
    }
    // Names the fallback, so that several variables with the same one have a single fault.
    const named = fallback ?? variable;
    const shown = presentable(named, value);
    const tellable = shown === JSON.stringify(value) ? messages : messages.filter((message) => !quotes(message, value));
    return [{ variable: named, message: [`${shown} is not right`, ...tellable].join('; ') }];
  });
  return faults.filter((fault, at) => faults.findIndex(({ variable }) => variable === fault.variable) === at);
};

/** Whether the message of a schema repeats the value, or a part of it that may hold a password. */
const quotes = (message: string, value: string): boolean =>
  [value, ...value.split(/,|:\/\//).filter((part) => part.includes('@'))].some((part) => message.includes(part));

/**
 * The value as it may be printed. Addresses may contain passwords (`scheme://user:password@host`, or in a query), often
 * just when they are malformed, so only those parts of them are shown that are certainly not secret.
 */
const presentable = (variable: string, value: string): string => {
  if (/SECRET|PASSWORD|TOKEN|KEY/i.test(variable)) return 'the value given (not shown)';
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(value)?.[0];
  if (scheme) {
    const bare = value.slice(scheme.length);
    const hostsOnly = bare.split(',').every((it) => /^(?:\[[\w.:-]+\]|[\w.-]+)(?::\d{1,5})?$/.test(it));
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
