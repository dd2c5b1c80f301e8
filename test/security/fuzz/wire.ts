import type { SeededRandom } from '#testing';
import { hostileTexts } from './hostile.js';
import type { Seen } from './values.js';

/** A field of a descriptor, as proto-loader returns it. */
interface Field {
  name: string;
  number: number;
  label: string;
  type: string;
  typeName: string;
}

export interface MessageType {
  name: string;
  field: Field[];
  nestedType: MessageType[];
}

/** Wire types: the lowest three bits of a tag (Protocol Buffers, Encoding). */
const wire = { varint: 0, fixed64: 1, bytes: 2, startGroup: 3, endGroup: 4, fixed32: 5 } as const;

const varint = (value: bigint): Buffer => {
  const bytes: number[] = [];
  for (let left = BigInt.asUintN(64, value); ; left >>= 7n) {
    if (left < 0x80n) return Buffer.from([...bytes, Number(left)]);
    bytes.push(Number(left & 0x7fn) | 0x80);
  }
};

const tag = (number: number, type: number): Buffer => varint((BigInt(number) << 3n) | BigInt(type));

const delimited = (number: number, content: Buffer): Buffer =>
  Buffer.concat([tag(number, wire.bytes), varint(BigInt(content.length)), content]);

const double = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return bytes;
};

const extremes = [
  ...[0n, 1n, -1n, 2n, 100n, 2_147_483_647n, 2_147_483_648n, -2_147_483_648n, 4_294_967_296n],
  ...[9_007_199_254_740_991n, 9_007_199_254_740_992n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 64n - 1n],
];
const numbers = [0, -0, 1.5, Number.MAX_VALUE, -Number.MAX_VALUE, 5e-324, 2 ** 53, Infinity, -Infinity, NaN];

const texts = [
  ...hostileTexts.filter((it) => typeof it === 'string'),
  ...['', ' ', 'a\0b', '\0', 'x'.repeat(129), 'x'.repeat(513), 'é'.repeat(1_025), 'x'.repeat(100_000), '\ufffd'],
];
/** Overlong, truncated, a lone surrogate, beyond the end of Unicode. */
const noTexts = ['c080', 'c3', 'eda080', 'f4908080', 'ff', '80'].map((it) => Buffer.from(it, 'hex'));

/** Valid values of a field, by its name. */
const usual: Record<string, readonly string[]> = {
  customer_id: ['c-1', 'c-2'],
  product_id: ['demo-mug', 'demo-lamp', 'fuzzed', 'nothing'],
  method: ['manual', 'simulated', 'stripe'],
  token: ['tok_ok', 'tok_declined'],
  label: ['VAT', 'Post'],
  country: ['GB', 'DE'],
  email: ['someone@example.com'],
};

/** Fields whose values come from earlier answers, under another name there. */
const known: Record<string, string> = { page_token: 'next_page_token', after: 'cursor' };

const deepest = 6;

/** Generates messages of a descriptor, as bytes: most fields valid, some not. */
export class WireMessages {
  constructor(
    private readonly random: SeededRandom,
    private readonly types: ReadonlyMap<string, MessageType>,
    private readonly seen: Seen,
    /** The probability that a field is wrong. */
    private readonly wrong: number,
  ) {}

  of(type: MessageType, scope: readonly MessageType[] = [], depth = 0): Buffer {
    const { random } = this;
    const fields = random.next() < 0.2 ? random.shuffled(type.field) : type.field;
    const parts = fields.flatMap((field) => {
      if (random.next() < (depth < deepest ? 0.3 : 0.9)) return [];
      const times = field.label === 'LABEL_REPEATED' ? random.integer(1, 3) : random.next() < 0.05 ? 2 : 1;
      return Array.from({ length: times }, () => this.field(field, [type, ...scope], depth));
    });
    if (random.next() < this.wrong) parts.push(this.unknown());
    return Buffer.concat(parts);
  }

  /** A message nested in itself to this depth. */
  nested(numbersOnTheWay: readonly number[], levels: number): Buffer {
    let content = Buffer.alloc(0);
    for (let level = 0; level < levels; level += 1)
      content = delimited(numbersOnTheWay[level % numbersOnTheWay.length]!, content) as Buffer<ArrayBuffer>;
    return content;
  }

  private field(field: Field, scope: readonly MessageType[], depth: number): Buffer {
    const { random } = this;
    if (random.next() < this.wrong) return this.wrongly(field.number);
    switch (field.type) {
      case 'TYPE_MESSAGE':
        return delimited(field.number, this.of(this.typeOf(field.typeName, scope), scope, depth + 1));
      case 'TYPE_STRING':
        return delimited(field.number, this.text(field.name));
      case 'TYPE_DOUBLE':
        return Buffer.concat([tag(field.number, wire.fixed64), double(random.pick(numbers))]);
      case 'TYPE_BOOL':
      case 'TYPE_ENUM':
      case 'TYPE_INT32':
      case 'TYPE_INT64':
        return Buffer.concat([tag(field.number, wire.varint), varint(this.integer())]);
      default:
        throw new Error(`nothing is made up of ${field.type}, of which ${field.name} is`);
    }
  }

  private typeOf(name: string, scope: readonly MessageType[]): MessageType {
    const nested = scope.flatMap((it) => it.nestedType).find((it) => it.name === name);
    const found = nested ?? this.types.get(name);
    if (!found) throw new Error(`the descriptors have no ${name}`);
    return found;
  }

  private integer(): bigint {
    return this.random.next() < 0.6 ? BigInt(this.random.integer(1, 5)) : this.random.pick(extremes);
  }

  private text(name: string): Buffer {
    const { random } = this;
    const chance = random.next();
    const given = this.seen.one(known[name] ?? name);
    if (chance < 0.35 && given !== undefined) return Buffer.from(given);
    if (chance < 0.8) return Buffer.from(random.pick(usual[name] ?? ['a', 'text', '🦊']));
    return random.next() < this.wrong ? random.pick(noTexts) : Buffer.from(random.pick(texts));
  }

  /** A field number followed by a value of the wrong type or encoding. */
  private wrongly(number: number): Buffer {
    const { random } = this;
    const bytes = Buffer.from(Array.from({ length: random.integer(0, 12) }, () => random.integer(0, 255)));
    return random.pick([
      () => Buffer.concat([tag(number, wire.varint), varint(random.pick(extremes))]),
      () => Buffer.concat([tag(number, wire.fixed64), Buffer.alloc(8, 0xff)]),
      () => Buffer.concat([tag(number, wire.fixed32), Buffer.alloc(4, 0xff)]),
      () => delimited(number, bytes),
      () => Buffer.concat([tag(number, wire.startGroup), bytes]),
      () => Buffer.concat([tag(number, wire.startGroup), tag(number, wire.endGroup)]),
      () => tag(number, wire.endGroup),
      () => tag(number, random.integer(6, 7)),
      // The declared length exceeds the content, by one or by far.
      () =>
        Buffer.concat([tag(number, wire.bytes), varint(random.pick([...extremes, BigInt(bytes.length + 1)])), bytes]),
      // A varint that is too long.
      () => Buffer.concat([tag(number, wire.varint), Buffer.alloc(11, 0x80), Buffer.from([1])]),
      () => Buffer.concat([tag(number, wire.varint), Buffer.from([0x80])]),
    ])();
  }

  /** A field number that is unknown or not allowed. */
  private unknown(): Buffer {
    const { random } = this;
    const number = random.pick([0, 99, 1_000, 19_000, 2 ** 29 - 1]);
    return random.next() < 0.5 ? this.wrongly(number) : delimited(number, Buffer.alloc(random.integer(0, 2_000), 0x61));
  }
}
