import type { ArgumentMetadata, PipeTransform } from '@nestjs/common';
import { z } from 'zod';
import { CleaveError, type Fault } from '#contracts';

/** Further faults are only counted. */
const listedFaults = 100;

/** A pipe that exposes its schema, so that `@Endpoint` can document the handler's inputs. */
export class SchemaPipe implements PipeTransform {
  private compiled: z.ZodType | undefined;

  constructor(readonly schema: z.ZodType) {}

  transform(given: unknown, { type, data }: ArgumentMetadata): unknown {
    const noBody = type === 'body' && given === undefined;
    const value = noBody ? {} : given;
    // At the first request, because compiling the schemas of all endpoints would delay every start.
    this.compiled ??= z.compile(this.schema);
    const parsed = this.compiled.safeParse(value, { error: inPlainWords });
    if (parsed.success) return parsed.data;
    if (noBody) throw invalid([{ path: '', message: 'a body of type application/json is required' }]);
    const { issues } = parsed.error;
    if (type === 'query') {
      const told = issues.flatMap((it) => toldOfParameter(it, value, this.schema));
      throw invalid(faultsIn(told, value));
    }
    const forms = formsOf(this.schema);
    const faults = faultsIn(issues, value, data).map((it) => toldAsOfAnotherForm(it, value, forms));
    throw invalid(type === 'body' ? faults.map(toldOfTheBody) : faults);
  }
}

/**
 * Parses a body, a query or a parameter: `@Body(valid(schema))`, `@Query(valid(schema))`, `@Param('id', valid(schema))`. A
 * missing body is parsed as `{}`, so it may be left out if the schema requires nothing.
 *
 * @throws CleaveError `invalid-request` with `faults: [{path, message}]`, one for each fault
 */
export const valid = (schema: z.ZodType): PipeTransform => new SchemaPipe(schema);

export const invalid = (faults: Fault[]): CleaveError => {
  const [first] = faults;
  const described = first ? [first.path, first.message].filter(Boolean).join(': ') : 'The request is not valid.';
  const others = faults.length > 1 ? ` (and ${faults.length - 1} more)` : '';
  return new CleaveError('invalid-request', `${described}${others}`, { faults: faults.slice(0, listedFaults) });
};

type Issue = z.core.$ZodIssue;

export const unknownParameter = 'is not a known parameter';

/**
 * An issue of a query in the words of its caller: an unknown parameter is named with those that are known, and a repeated one
 * is called that, because it arrives as an array, a type that the caller never wrote.
 */
const toldOfParameter = (issue: Issue, query: unknown, schema: z.ZodType): Issue[] => {
  const told = (path: PropertyKey[], message: string): Issue => ({ code: 'custom', path, message });
  if (issue.code === 'unrecognized_keys') {
    const known = schema instanceof z.ZodObject ? `; known are ${Object.keys(schema.shape).join(', ')}` : '';
    return issue.keys.map((key) => told([key], `${unknownParameter}${known}`));
  }
  return [Array.isArray(valueAt(query, issue.path)) ? told(issue.path, 'is given more than once') : issue];
};

/** A fault of the body as a whole has no path that would say what it is about. */
const toldOfTheBody = ({ path, message }: Fault): Fault => ({
  path,
  message: path === '' && message.startsWith('must ') ? `the body ${message}` : message,
});

const unknownMember = 'is not a known member';

const formsOf = (schema: z.ZodType): z.ZodObject[] =>
  schema instanceof z.ZodUnion ? schema.options.filter((it) => it instanceof z.ZodObject) : [];

/** A member of another form is documented, so to call it unknown would not say what is wrong. */
const toldAsOfAnotherForm = (fault: Fault, given: unknown, forms: readonly z.ZodObject[]): Fault => {
  const knows = ({ shape }: z.ZodObject, member: string): boolean => Object.hasOwn(shape, member);
  const other = fault.message === unknownMember && forms.find((it) => knows(it, fault.path));
  if (!other) return fault;
  const excluded = Object.keys(given as object).filter(
    (it) => !knows(other, it) && forms.some((form) => knows(form, it)),
  );
  return { ...fault, message: `cannot be combined with ${excluded.join(' or ')}` };
};

const kinds: Record<string, string> = {
  string: 'a string',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'an array',
  object: 'an object',
  record: 'an object',
};

/** What a caller may have put in quotes: without a word about these, the message would be true of `"1"` as well. */
const neverQuoted = new Set<string>(['number', 'int', 'boolean']);

/** The message for an issue whose schema does not define one; undefined leaves it to zod. */
const inPlainWords: z.core.$ZodErrorMap = (issue) => {
  if (issue.code === 'invalid_type') return kinds[issue.expected] && `must be ${kinds[issue.expected]}`;
  if (issue.code === 'invalid_value') return `must be ${issue.values.map(String).join(' or ')}`;
  if (issue.code === 'too_small') return bounded(issue.origin, 'at least', issue.minimum);
  return issue.code === 'too_big' ? bounded(issue.origin, 'at most', issue.maximum) : undefined;
};

const bounded = (origin: string, bound: string, limit: number | bigint): string | undefined => {
  if (origin === 'number' || origin === 'int') return `must be ${bound} ${limit}`;
  const unit = units[origin];
  return unit && `must have ${bound} ${limit} ${unit}${limit === 1 ? '' : 's'}`;
};

const units: Record<string, string> = { string: 'character', array: 'item' };

/** Converts zod's issues to faults with plain paths. `root` is the name of the parameter if the value is not an object. */
export const faultsIn = (issues: readonly Issue[], value: unknown, root?: string): Fault[] =>
  issues.flatMap((issue) => faultsOf(issue, value, root === undefined ? [] : [root]));

const faultsOf = (issue: Issue, value: unknown, base: PropertyKey[]): Fault[] => {
  const path = [...base, ...issue.path];
  const given = valueAt(value, issue.path);
  const fault = (message: string, at: PropertyKey[] = path): Fault[] => [{ path: at.map(String).join('.'), message }];
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.flatMap((key) => fault(unknownMember, [...path, key]));
  }
  if (given === undefined && (issue.code === 'invalid_type' || issue.code === 'invalid_union')) {
    return fault('is required');
  }
  if (issue.code === 'invalid_type' && typeof given === 'string' && neverQuoted.has(issue.expected))
    return fault(`${issue.message}, not a string`);
  if (issue.code === 'invalid_key') return fault(issue.issues.map(({ message }) => message).join('; '));
  if (issue.code === 'invalid_union') return faultsOfUnion(issue, given, path, fault);
  return fault(issue.message);
};

/**
 * A union fails with the issues of each of its forms. Only those of the form that the caller most likely meant are
 * reported: the one whose members match the given ones best, and among equals the one with the fewest issues.
 */
const faultsOfUnion = (
  union: z.core.$ZodIssueInvalidUnion,
  given: unknown,
  path: PropertyKey[],
  fault: (message: string) => Fault[],
): Fault[] => {
  const forms = union.errors.filter((issues) => !issues.some(isWrongKind));
  const [meant] = forms.sort(
    (one, other) => mismatch(one, given) - mismatch(other, given) || one.length - other.length,
  );
  if (meant) return meant.flatMap((issue) => faultsOf(issue, given, path));
  if (union.message !== 'Invalid input') return fault(union.message);
  return fault([...new Set(union.errors.flat().map(({ message }) => message))].join(' or '));
};

/** The value as a whole is of another type than this form, for example a string instead of an object. */
const isWrongKind = (issue: Issue): boolean =>
  issue.path.length === 0 && (issue.code === 'invalid_type' || issue.code === 'invalid_value');

/** Counts members that the form does not know and required members that are missing. */
const mismatch = (issues: readonly Issue[], given: unknown): number =>
  issues
    .filter(({ path }) => path.length <= 1)
    .map((issue) => {
      if (issue.code === 'unrecognized_keys' && issue.path.length === 0) return issue.keys.length;
      return issue.path.length === 1 && valueAt(given, issue.path) === undefined ? 1 : 0;
    })
    .reduce((sum, count) => sum + count, 0);

const valueAt = (value: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>(
    (at, key) =>
      at !== null && typeof at === 'object' && Object.hasOwn(at, key)
        ? (at as Record<PropertyKey, unknown>)[key]
        : undefined,
    value,
  );

/** Normalises an id in a URL to its stored form. Ids are opaque to callers, so a malformed id is simply not found. */
export const uuidOr = (id: string, notFound: () => CleaveError): string => {
  if (z.uuid().safeParse(id).success) return id.toLowerCase();
  throw notFound();
};
