import { fileURLToPath } from 'node:url';
import { setTimeout } from 'node:timers/promises';
import { loadSync, type ServiceDefinition } from '@grpc/proto-loader';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { isErrorCode } from '#contracts';
import type { SeededRandom } from '#testing';
import { ok } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { bytesOf, type CallOptions, type Outcome, type Refusal } from '../support/grpc.js';
import { Ledger } from '../support/ledger.js';
import { Seen } from './fuzz/values.js';
import { WireMessages, type MessageType } from './fuzz/wire.js';
import { bearer, keyFor, startWorld, type World } from './world.js';

const isLong = 'fullRun' in globalThis;
const count = isLong ? 10_000 : 1_500;
const atOnce = 8;
/** Only hangs take this long, also on a busy machine. */
const answeredWithinMs = 30_000;
/** How long a stream is followed before it is cancelled. */
const followedMs = 100;
const told = 10;
/** Calls refused as overload test nothing, so they must be few. */
const refusedAtMost = 0.1;
// Generous, for slow machines: this only catches hangs.
jest.setTimeout(isLong ? 3_600_000 : 480_000);

const protos = fileURLToPath(new URL('../../libs/order/proto', import.meta.url));
const definitions = loadSync('cleave/order/v1/order.proto', { keepCase: true, includeDirs: [protos] });
const methods = Object.values(definitions['cleave.order.v1.Orders'] as ServiceDefinition);
const types = new Map(
  Object.entries(definitions).flatMap(([name, { type }]): [string, MessageType][] => {
    const message = type as MessageType | undefined;
    // Within a package, messages refer to each other by the short name.
    return message?.field ? [name, message.name].map((it) => [it, message]) : [];
  }),
);

/** Codes that mean a fault of the server. */
const ours = new Set(['INTERNAL', 'UNKNOWN', 'DEADLINE_EXCEEDED', 'DATA_LOSS', 'UNIMPLEMENTED']);

const metadataValues = [
  ...[
    '',
    'a',
    '0',
    '"',
    'a, b',
    'x'.repeat(255),
    'x'.repeat(256),
    'x'.repeat(3_000),
    '%00',
    '%',
    '${jndi:ldap://127.0.0.1:1/a}',
  ],
  ...[
    '00-00000000000000000000000000000000-0000000000000000-00',
    `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`,
    'ff-x',
    'Bearer ',
  ],
  ...['__proto__', '1S', '-1', '999999999999H', 'application/grpc+json', 'gzip', 'true', 'W/"v1"', '~`!@#$^&*()'],
];
const metadataNames = [
  ...['idempotency-key', 'x-request-id', 'traceparent', 'tracestate', 'baggage', 'x-forwarded-for'],
  ...['cleave-caller', 'cleave-tenant', 'tenant', 'constructor', 'grpc-previous-rpc-attempts', 'a.b-c_d'],
];

/**
 * Metadata of every kind: known and unknown, single and repeated, text and binary. grpc-js does not send repeated
 * values for headers that HTTP allows once, such as `authorization`.
 */
const metadataOf = (random: SeededRandom, key: string): NonNullable<CallOptions['metadata']> => {
  const metadata: Record<string, string | Buffer | (string | Buffer)[]> = { authorization: `Bearer ${key}` };
  if (random.next() < 0.5) return metadata;
  for (let times = random.integer(1, 4); times > 0; times -= 1)
    metadata[random.pick(metadataNames)] =
      random.next() < 0.2 ? [random.pick(metadataValues), random.pick(metadataValues)] : random.pick(metadataValues);
  const bytes = () => Buffer.from(Array.from({ length: random.integer(0, 300) }, () => random.integer(0, 255)));
  if (random.next() < 0.2) metadata[random.pick(['a-bin', 'grpc-trace-bin', 'grpc-tags-bin'])] = bytes();
  if (random.next() < 0.05) for (let at = 0; at < 100; at += 1) metadata[`many-${at}`] = 'x'.repeat(20);
  if (random.next() < 0.05) metadata['authorization'] = random.pick(['', 'Bearer', 'Bearer x', 'Basic eDp5']);
  return metadata;
};

describe(`gRPC fuzzing with ${count} calls generated from the .proto`, () => {
  let world: World;
  beforeAll(async () => {
    world = await startWorld('monolith');
  });
  afterAll(() => world.stop());

  it('answers every call in time and never with an internal error', async () => {
    const random = randomOf('fuzz grpc');
    const seen = new Seen(random);
    const messages = [0, 0, 0.1, 0.5].map((wrong) => new WireMessages(random, types, seen, wrong));
    const { key } = await keyFor(world);
    await stockUp(world, key);
    const wrong: string[] = [];
    const codes = new Map<string, Set<string>>();
    let left = count;
    let tooMuch = 0;

    const fuzz = async (): Promise<void> => {
      while (left > 0 && wrong.length < told) {
        left -= 1;
        const { path, requestType, responseStream } = methods[left % methods.length]!;
        const name = path.split('/').at(-1)!;
        const chance = random.next();
        const made =
          chance < 0.03
            ? deep(random, messages[0]!)
            : chance < 0.15 && name === 'PlaceOrder'
              ? usualOrder
              : random.pick(messages).of(requestType.type as MessageType);
        // Some messages are truncated.
        const raw = random.next() < 0.03 ? made.subarray(0, random.integer(0, made.length)) : made;
        const metadata = metadataOf(random, key);
        const sent = { raw, metadata, deadlineMs: answeredWithinMs };
        const { reply, refusal } = responseStream
          ? await followed(world, name, sent)
          : await world.grpc.call(name, {}, sent);
        if (refusal && isOverload(refusal)) tooMuch += 1;
        const fault = refusal && faultOf(refusal);
        if (fault !== undefined)
          wrong.push(
            `${fault}\n${name} ${raw.toString('hex').slice(0, 1_000)} ${JSON.stringify(metadata).slice(0, 600)}`,
          );
        if (reply) seen.noteAll(reply);
        codes.set(name, (codes.get(name) ?? new Set<string>()).add(refusal?.code ?? 'OK'));
      }
    };
    await Promise.all(Array.from({ length: atOnce }, fuzz));

    process.stderr.write(`gRPC: ${tooMuch} of ${count} calls were refused because more came than can be answered\n`);
    expect(wrong).toEqual([]);
    expect(tooMuch).toBeLessThanOrEqual(count * refusedAtMost);
    // Every method was called, succeeded at least once and was refused for its input at least once.
    expect([...codes.keys()].toSorted()).toEqual(methods.map((it) => it.path.split('/').at(-1)!).toSorted());
    for (const of of codes.values())
      expect([...of]).toEqual(expect.arrayContaining(['OK', 'INVALID_ARGUMENT', 'UNAUTHENTICATED']));
    expect(world.shape.services.filter((it) => !it.isRunning)).toEqual([]);
    expect(world.shape.log()).not.toContain('"context":"Grpc"');
    expect(world.shape.log()).not.toContain(key.split('_')[2]);
    await new Ledger(world.shape).expectInvariants();
  });
});

/** Nesting up to the size limit of a message, and around the depth limit. */
const deep = (random: SeededRandom, messages: WireMessages): Buffer => {
  const levels = random.pick([30, 31, 32, 33, 99, 100, 101, 1_000, 4_000]);
  // In `metadata` of PlaceOrder: a Value of a list of Values; in other messages, an unknown field.
  return Buffer.concat([
    Buffer.from([0x0a, 0x03]),
    Buffer.from('c-1'),
    messages.nested(random.pick([[1, 6], [6], [2, 1, 5, 6]]), levels),
  ]);
};

/** The first message of a stream, its refusal, or nothing if neither arrives in time. */
const followed = async ({ grpc }: World, name: string, sent: CallOptions): Promise<Omit<Outcome, 'replayed'>> => {
  const stream = grpc.stream(name, {}, sent);
  try {
    const first = stream.next().then((reply) => ({ reply }));
    const refused = first.then(
      (it) => it,
      (error: unknown) => ({ refusal: stream.refusalIn(error) }),
    );
    return await Promise.race([refused, setTimeout(followedMs, {}, { ref: false })]);
  } finally {
    stream.call.cancel();
  }
};

/** A valid order: generated ones seldom are. */
const usualOrder = bytesOf('PlaceOrder', { customer_id: 'c-1', lines: [{ product_id: 'demo-mug', quantity: 1 }] });

const stockUp = async ({ api, grpc }: World, key: string): Promise<void> => {
  for (const product of ['demo-mug', 'demo-lamp', 'fuzzed']) {
    const body = { name: product, unit_price_minor: 5, currency: 'GBP' };
    await api.send('PUT', `/products/${product}`, { ...bearer(key), body });
    ok(await api.send('PUT', `/stock/${product}`, { ...bearer(key), body: { on_hand: 1_000_000 } }));
  }
  await grpc.ok('PlaceOrder', {}, { raw: usualOrder, metadata: { authorization: `Bearer ${key}` } });
};

const isOverload = ({ code, message }: Refusal): boolean =>
  code === 'UNAVAILABLE' && message.includes('The server is overloaded');

/** What is wrong with a refusal, if anything. */
const faultOf = (refusal: Refusal): string | undefined => {
  const { code, reason, message } = refusal;
  if (ours.has(code)) return `it failed with ${code}: ${message}`;
  if (code === 'UNAVAILABLE' && !isOverload(refusal)) return `it is away: ${message}`;
  if (reason === undefined || !isErrorCode(reason)) return `${code} has no code of ours: ${message}`;
  return undefined;
};
