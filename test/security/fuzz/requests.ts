import { gzipSync } from 'node:zlib';
import type { SeededRandom } from '#testing';
import type { Operation, Parameter } from '../../support/openapi.js';
import { hostileFields, hostileParts, hostileQueries } from './hostile.js';
import { Members, textOf } from './json.js';
import { mutated, type Seen, type Values } from './values.js';

export interface FuzzedRequest {
  operation: Operation;
  method: string;
  /** As sent. */
  path: string;
  headers: Record<string, string | string[]>;
  body: Buffer | undefined;
}

const otherMethods = ['HEAD', 'OPTIONS', 'TRACE', 'PATCH', 'PUT', 'DELETE', 'POST', 'GET', 'PROPFIND', 'QUERY'];

const otherTypes = [
  ...[
    'text/plain',
    'application/xml',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'nonsense',
    '',
  ],
  ...[
    'application/json; charset=latin1',
    'application/json; charset="utf-16"',
    'APPLICATION/JSON',
    'application/json;',
    'application/jsonx',
  ],
  ...[
    'application/json; charset=utf-8; charset=utf-16',
    `application/json; charset="${'x'.repeat(4_000)}`,
    'application/json, text/plain',
  ],
];

/** Headers that any request may have, whether or not its operation knows them. */
const anyFields = [
  ...[
    'x-request-id',
    'traceparent',
    'accept',
    'if-match',
    'if-none-match',
    'last-event-id',
    'idempotency-key',
    'cleave-caller',
  ],
  ...[
    'x-forwarded-for',
    'x-forwarded-host',
    'origin',
    'sec-fetch-site',
    'content-encoding',
    'range',
    'prefer',
    'x-http-method-override',
  ],
  ...['cookie', 'stripe-signature', 'accept-language', 'user-agent', 'forwarded', 'max-forwards', 'te', 'upgrade'],
];

/** What `id` stands for in paths that begin with these words. */
const idsOf: Record<string, string> = { products: 'product_id', customers: 'customer_id' };

/** Generates requests from the seed, some of them valid. */
export class Requests {
  constructor(
    private readonly random: SeededRandom,
    private readonly values: Values,
    private readonly seen: Seen,
  ) {}

  /** @param credential of a caller that may call the operation */
  next(operation: Operation, credential: string): FuzzedRequest {
    const { random } = this;
    const headers: FuzzedRequest['headers'] = {
      ...this.fieldsOf(operation),
      ...(random.next() < 0.97 && { authorization: `Bearer ${credential}` }),
    };
    if (random.next() < 0.12) headers[random.pick(anyFields)] = this.field();
    if (random.next() < 0.01)
      headers['authorization'] = random.pick(['Bearer', 'Bearer x', 'Basic eDp5', `Bearer ${'x'.repeat(9_000)}`]);
    const method = random.next() < 0.02 ? random.pick(otherMethods) : operation.method;
    const body = this.bodyOf(operation);
    // Node omits it for methods that usually have no body.
    if (body !== undefined) headers['content-length'] = String(body.length);
    if (body !== undefined)
      headers['content-type'] = random.next() < 0.97 ? 'application/json' : random.pick(otherTypes);
    return { operation, method, path: this.pathOf(operation), headers, body };
  }

  private pathOf({ template, parameters }: Operation): string {
    const path = template.replaceAll(/\{(\w+)\}/g, (_, name: string) => this.partOf(name, template));
    const query = this.queryOf(parameters.filter((it) => it.in === 'query'));
    return query === '' ? path : `${path}?${query}`;
  }

  private partOf(name: string, template: string): string {
    const { random, seen } = this;
    const chosen = random.next();
    if (chosen < 0.12) return random.pick(hostileParts);
    const of = template.split('/')[1]!;
    const known = seen.one(name === 'id' ? (idsOf[of] ?? 'order_id') : name);
    if (known !== undefined && chosen < 0.95) return encodeURIComponent(known.toWellFormed());
    return name === 'code' ? 'out-of-stock' : '019a5f00-0000-7000-8000-00000000000a';
  }

  private queryOf(parameters: Parameter[]): string {
    const { random } = this;
    const parts = parameters
      .filter((it) => it.required || random.next() < 0.4)
      .map(({ name, schema }) => {
        const value = random.next() < 0.1 ? mutated(undefined, random) : this.values.of(schema, name);
        const text = typeof value === 'string' ? value : textOf(value);
        return `${name}=${encodeURIComponent(text.slice(0, 3_000).toWellFormed())}`;
      });
    if (random.next() < 0.06) parts.push(random.pick(hostileQueries));
    return parts.join('&');
  }

  private fieldsOf({ parameters }: Operation): Record<string, string | string[]> {
    const { random } = this;
    const fields = parameters
      .filter((it) => it.in === 'header' && (it.required || random.next() < 0.5))
      .map(({ name }): [string, string | string[]] => {
        if (random.next() < 0.15) return [name.toLowerCase(), this.field()];
        if (name === 'If-Match') return ['if-match', random.pick(['"v1"', '"v2"', '*'])];
        if (name === 'Idempotency-Key') return ['idempotency-key', `"k-${random.integer(0, 1e9)}"`];
        return [name.toLowerCase(), this.seen.one('cursor') ?? 'x'];
      });
    return Object.fromEntries(fields);
  }

  private field(): string | string[] {
    const { random } = this;
    return random.next() < 0.1 ? [random.pick(hostileFields), random.pick(hostileFields)] : random.pick(hostileFields);
  }

  private bodyOf({ body, examples }: Operation): Buffer | undefined {
    const { random } = this;
    if (!body) return random.next() < 0.02 ? Buffer.from('{"a":1}') : undefined;
    if (random.next() < 0.02) return undefined;
    const example = random.next() < 0.2 ? random.pick(examples) : undefined;
    let value = example === undefined ? this.values.of(body) : asMembers(example);
    const faults = random.pick([0, 0, 0, 1, 1, 1, 2, 4]);
    for (let count = 0; count < faults; count += 1) value = mutated(value, random);
    const bytes = Buffer.from(textOf(value));
    return random.next() < 0.05 ? this.spoilt(bytes) : bytes;
  }

  /** Corrupted bytes, which are usually no longer JSON. */
  private spoilt(bytes: Buffer): Buffer {
    const { random } = this;
    const at = random.integer(0, bytes.length);
    const part = (from: number, to?: number) => bytes.subarray(from, to);
    return random.pick([
      () => part(0, at),
      () => part(at),
      () => Buffer.concat([bytes, bytes]),
      () => Buffer.concat([part(0, at), Buffer.from([random.integer(0, 255)]), part(at)]),
      () => Buffer.concat([part(0, at), Buffer.from([0xff, 0xfe, 0x00]), part(at)]),
      () => Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), bytes]),
      () => Buffer.from(bytes.toString(), 'utf16le'),
      () => Buffer.from(bytes.toString(), 'latin1'),
      () => gzipSync(bytes),
      () => Buffer.alloc(0),
      () => Buffer.from(Array.from({ length: 200 }, () => random.integer(0, 255))),
      () => Buffer.concat([bytes, Buffer.from(' '.repeat(200_000))]),
    ])();
  }
}

const asMembers = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(asMembers);
  if (value === null || typeof value !== 'object') return value;
  return new Members(Object.entries(value).map(([key, member]): [string, unknown] => [key, asMembers(member)]));
};
