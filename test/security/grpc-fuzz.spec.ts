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

const isLong = 'longFuzz' in globalThis;
const count = isLong ? 10_000 : 1_500;
const atOnce = 8;
const answeredWithinMs = 10_000;
/** Who follows is told something soon, or follows until it goes. */
const followedMs = 100;
const told = 10;
/** What is refused as too much is not looked at: a run that is mostly that has tested nothing. */
const refusedAtMost = 0.1;
// For what hangs, on a slow machine as well.
jest.setTimeout(isLong ? 3_600_000 : 480_000);

const protos = fileURLToPath(new URL('../../libs/order/proto', import.meta.url));
const definitions = loadSync('cleave/order/v1/order.proto', { keepCase: true, includeDirs: [protos] });
const methods = Object.values(definitions['cleave.order.v1.Orders'] as ServiceDefinition);
const types = new Map(
  Object.entries(definitions).flatMap(([name, { type }]): [string, MessageType][] => {
    const message = type as MessageType | undefined;
    // Within a package they are called by their own name alone.
    return message?.field ? [name, message.name].map((it) => [it, message]) : [];
  }),
);

/** What the server alone has to answer for. */
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
 * Metadata of every kind: known and unknown, once and more often, text and bytes. Two of what HTTP has one of, such as
 * `authorization`, are not sent by grpc-js.
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

describe(`over gRPC, ${count} calls that are made up of what the .proto describes`, () => {
  let world: World;
  beforeAll(async () => {
    world = await startWorld('monolith');
  });
  afterAll(() => world.stop());

  it('are each answered in time, and not as if we had failed', async () => {
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
        // Of what is whole, some is cut off.
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
    // Each has been let in, and refused for what it was sent.
    expect([...codes.keys()].toSorted()).toEqual(methods.map((it) => it.path.split('/').at(-1)!).toSorted());
    for (const of of codes.values())
      expect([...of]).toEqual(expect.arrayContaining(['OK', 'INVALID_ARGUMENT', 'UNAUTHENTICATED']));
    expect(world.shape.services.filter((it) => !it.isRunning)).toEqual([]);
    expect(world.shape.log()).not.toContain('"context":"Grpc"');
    expect(world.shape.log()).not.toContain(key.split('_')[2]);
    await new Ledger(world.shape).expectInvariants();
  });
});

/** As deep as the limit of a message lets it be, and where it is just about too deep. */
const deep = (random: SeededRandom, messages: WireMessages): Buffer => {
  const levels = random.pick([30, 31, 32, 33, 99, 100, 101, 1_000, 4_000]);
  // Within `metadata` of PlaceOrder: a Value of a list of Values; elsewhere it is a field that is not known.
  return Buffer.concat([
    Buffer.from([0x0a, 0x03]),
    Buffer.from('c-1'),
    messages.nested(random.pick([[1, 6], [6], [2, 1, 5, 6]]), levels),
  ]);
};

/** Something that it is told, or how it is refused, or nothing where nothing happens. */
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

/** As it should be: what is made up seldom is. */
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

/** What is wrong with a refusal. */
const faultOf = (refusal: Refusal): string | undefined => {
  const { code, reason, message } = refusal;
  if (ours.has(code)) return `it failed with ${code}: ${message}`;
  if (code === 'UNAVAILABLE' && !isOverload(refusal)) return `it is away: ${message}`;
  if (reason === undefined || !isErrorCode(reason)) return `${code} has no code of ours: ${message}`;
  return undefined;
};
