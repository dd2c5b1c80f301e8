import type { SeededRandom } from '#testing';
import type { Schema } from '../../support/openapi.js';
import { hostileTexts, hostileValues, largeValues, treacherousMembers } from './hostile.js';
import { Members } from './json.js';

/** Ids and cursors from earlier answers, by the name of their field. */
export class Seen {
  private readonly byName = new Map<string, string[]>();

  constructor(private readonly random: SeededRandom) {}

  note(name: string, value: string): void {
    const known = this.byName.get(name) ?? [];
    if (known.length < 60) known.push(value);
    else known[this.random.integer(0, 59)] = value;
    this.byName.set(name, known);
  }

  one(name: string): string | undefined {
    const known = this.byName.get(name);
    return known && this.random.pick(known);
  }

  /** Notes all ids and cursors in an answer. */
  noteAll(value: unknown, depth = 0): void {
    if (value === null || typeof value !== 'object' || depth > 6) return;
    for (const [name, member] of Object.entries(value)) {
      if (typeof member === 'string' && /(?:_id|cursor|lease|version|reference)$/.test(name)) this.note(name, member);
      else this.noteAll(member, depth + 1);
    }
  }
}

/** Addresses at which nothing listens, so that no third party is called. */
const urls = ['http://127.0.0.1:1/hook', 'https://127.0.0.1:1/', 'http://[::1]:1/x?y=z'];

const letters = ['a', 'b', 'c', 'X', 'Y', 'Z', '0', '1', '9', ' ', '-', '_', 'ä', 'ß', '🦊'];

const fewDays = ['2026-01-01', '2026-06-30', '2026-11-27'];

/** Generates values for a schema, most of them valid. */
export class Values {
  constructor(
    private readonly random: SeededRandom,
    private readonly schemas: Record<string, Schema>,
    private readonly seen: Seen,
  ) {}

  of(schema: Schema, name = ''): unknown {
    const { random } = this;
    if (schema.$ref !== undefined) return this.of(this.schemas[schema.$ref.split('/').at(-1)!]!, name);
    const examples = schema.examples ?? (schema.example === undefined ? [] : [schema.example]);
    if (examples.length > 0 && random.next() < 0.4) return random.pick(examples);
    if ('const' in schema) return schema.const;
    if (schema.enum) return random.pick(schema.enum);
    const forms = schema.anyOf ?? schema.oneOf;
    if (forms) return this.of(random.pick(forms), name);
    const type = Array.isArray(schema.type) ? random.pick(schema.type) : schema.type;
    switch (type) {
      case 'object':
        return this.object(schema);
      case 'array':
        return this.array(schema, name);
      case 'integer':
      case 'number':
        return this.number(schema);
      case 'string':
        return this.text(schema, name);
      case 'boolean':
        return random.next() < 0.5;
      case 'null':
        return null;
      default:
        return random.pick<unknown>([1, 'x', null, true, { a: [1, { b: 'ä' }] }, [], 0.5]);
    }
  }

  private object({ properties = {}, required = [], additionalProperties }: Schema): Members {
    const { random } = this;
    const members = Object.entries(properties)
      .filter(([key]) => required.includes(key) || random.next() < 0.4)
      .map(([key, schema]): [string, unknown] => [key, this.of(schema, key)]);
    if (typeof additionalProperties === 'object' && random.next() < 0.7)
      members.push(['more', this.of(additionalProperties, 'more')]);
    return new Members(members);
  }

  private array({ items = {}, minItems = 0, maxItems = 3 }: Schema, name: string): unknown[] {
    const length = this.random.integer(minItems, Math.max(minItems, Math.min(maxItems, 3)));
    return Array.from({ length }, () => this.of(items, name.replace(/s$/, '')));
  }

  private number({ type, minimum = -1_000, maximum = 1_000_000 }: Schema): number {
    const { random } = this;
    const small = Math.min(maximum, Math.max(minimum, random.integer(0, 20)));
    const value = random.pick([small, small, small, minimum, maximum, random.integer(0, 5_000)]);
    return type === 'number' ? value / 2 : Math.trunc(value);
  }

  private text({ format, pattern, minLength = 0, maxLength = 30 }: Schema, name: string): string {
    const { random } = this;
    if (name === 'url') return random.pick(urls);
    if (name === 'limit') return String(random.integer(1, 300));
    const known = this.seen.one(name === 'cursor' ? 'next_cursor' : name);
    if (known !== undefined && random.next() < 0.7) return known;
    if (format === 'date') return random.pick(fewDays);
    if (format === 'date-time') return new Date(Date.UTC(2026, 0, 1) + random.integer(0, 4e10)).toISOString();
    if (format === 'uuid') return `019a5f00-0000-7000-8000-${String(random.integer(0, 1e6)).padStart(12, '0')}`;
    if (pattern?.startsWith('^[A-Z]')) return random.pick(['GBP', 'EUR', 'JPY']);
    if (pattern !== undefined) return random.pick(['default', 'shop-1', 'a']);
    const length = random.integer(Math.max(1, minLength), Math.max(1, minLength, Math.min(maxLength, 12)));
    return Array.from({ length }, () => random.pick(letters)).join('');
  }
}

/** Damages a value at any depth: removes, adds, repeats or replaces a member. */
export const mutated = (value: unknown, random: SeededRandom): unknown => {
  const isDeeper = random.next() < 0.7;
  if (value instanceof Members && value.of.length > 0 && isDeeper) {
    const at = random.integer(0, value.of.length - 1);
    const [key, member] = value.of[at]!;
    const others = value.of.filter((_, index) => index !== at);
    return random.pick([
      () => new Members(value.of.with(at, [key, mutated(member, random)])),
      () => new Members(value.of.with(at, [key, mutated(member, random)])),
      () => new Members(value.of.with(at, [key, mutated(member, random)])),
      () => new Members(others),
      () => new Members([...value.of, [key, hostile(random)]]),
      () => new Members([...value.of, random.pick(treacherousMembers)]),
      () => new Members(value.of.with(at, [key.toUpperCase(), member])),
      () => new Members(value.of.with(at, [key, [member]])),
    ])();
  }
  if (Array.isArray(value) && value.length > 0 && isDeeper) {
    const at = random.integer(0, value.length - 1);
    return random.pick([
      () => value.with(at, mutated(value[at], random)),
      () => [...value, value[at]],
      () => Array.from({ length: random.pick([65, 101, 1_001, 2_001]) }, () => value[at]),
      () => new Members(value.map((it, index) => [String(index), it])),
    ])();
  }
  return hostile(random);
};

const hostile = (random: SeededRandom): unknown => {
  const chosen = random.next();
  if (chosen < 0.01) return random.pick(largeValues);
  return random.pick(chosen < 0.6 ? hostileValues : hostileTexts);
};
