import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { isErrorCode, limits, problem } from '#contracts';
import { ok } from '../support/api.js';
import { randomOf } from '../support/fresh.js';
import { Ledger } from '../support/ledger.js';
import { operationsIn, type OpenApi } from '../support/openapi.js';
import type { ShapeName } from '../support/shapes.js';
import { Requests, type FuzzedRequest } from './fuzz/requests.js';
import { Sender, type FuzzedAnswer } from './fuzz/sender.js';
import { Seen, Values } from './fuzz/values.js';
import { bearer, keyFor, startWorld, type World } from './world.js';

const isLong = 'fullRun' in globalThis;
const shapes: [ShapeName, number][] = isLong
  ? [
      ['monolith', 30_000],
      ['split-tcp', 10_000],
    ]
  : [['monolith', 5_000]];

const atOnce = 8;
/** Above the time limits of the server, also if other processes take most of the CPU. */
const answeredWithinMs = 30_000;
const told = 10;
/** Requests refused as overload test nothing, so they must be few. */
const refusedAtMost = 0.1;
// Generous, for slow machines: this only catches hangs.
jest.setTimeout(isLong ? 3_600_000 : 480_000);

/** Statuses that any operation may answer, whether or not the document lists them. */
const anywhere = new Set([400, 401, 403, 404, 405, 413, 415, 417, 429, 431]);

describe.each(shapes)('%s fuzzed with %i generated requests', (name, count) => {
  let world: World;
  let document: OpenApi;
  beforeAll(async () => {
    world = await startWorld(name);
    document = ok(await world.api.get<OpenApi>('/openapi.json'));
  });
  afterAll(() => world.stop());

  it('answers as the OpenAPI document says and in time, leaks no secret and keeps all invariants', async () => {
    const random = randomOf(`fuzz ${name}`);
    const seen = new Seen(random);
    const requests = new Requests(random, new Values(random, document.components.schemas, seen), seen);
    const operations = operationsIn(document);
    const { key, key_id } = await keyFor(world);
    const secrets = [key.split('_')[2]!, world.admin, world.secret];
    const sender = new Sender(world.api.baseUrl, atOnce, answeredWithinMs);
    const wrong: string[] = [];
    const statuses = new Map<string, Map<number, number>>();
    let left = count;
    let tooMuch = 0;

    await stockUp(world, key, seen);
    const work = async (): Promise<void> => {
      while (left > 0 && wrong.length < told) {
        left -= 1;
        // Round-robin, so that every operation is called.
        const operation = operations[left % operations.length]!;
        const request = requests.next(operation, operation.scope === 'operator' ? world.admin : key);
        // The fuzzer must not revoke or rotate the key it uses.
        if (operation.template.startsWith('/keys') && request.path.includes(key_id)) continue;
        const answer = await sender.send(request);
        if (isOverload(answer)) tooMuch += 1;
        const fault = faultOf(request, answer, secrets);
        if (fault !== undefined)
          wrong.push(`${fault}\n${shown(request)}\n→ ${answer.status} ${answer.text.slice(0, 600)}`);
        const counts = statuses.get(operation.name) ?? new Map<number, number>();
        statuses.set(operation.name, counts.set(answer.status ?? 0, (counts.get(answer.status ?? 0) ?? 0) + 1));
        if (answer.status !== undefined && answer.status < 300) seen.noteAll(parsed(answer.text));
      }
    };
    await Promise.all(Array.from({ length: atOnce }, work));
    sender.close();
    process.stderr.write(
      `${name}: ${tooMuch} of ${count} requests were refused because more came than can be answered\n`,
    );
    expect(wrong).toEqual([]);
    expect(tooMuch).toBeLessThanOrEqual(count * refusedAtMost);
    // A request refused early does not test the operation, so every operation has to succeed at least once.
    const neverDone = operations.filter((it) => ![...statuses.get(it.name)!.keys()].some((status) => status < 300));
    const strange = neverDone.map((it) => it.name).filter((it) => !unreachable.has(it));
    // In a short run, a few operations that need an order in a certain state may not succeed.
    if (count >= 30_000) expect(strange).toEqual([]);
    else expect(strange.length).toBeLessThan(8);
    expect(world.shape.services.filter((it) => !it.isRunning)).toEqual([]);
    expect((await world.api.get('/health/ready')).status).toBe(200);
    for (const secret of secrets) expect(world.shape.log()).not.toContain(secret);
    await new Ledger(world.shape).expectInvariants();
  });
});

/** Stripe is not configured, and nothing here produces a dead letter. */
const unreachable = new Set([
  'POST /payments/webhooks/stripe',
  'POST /dead-letters/{id}/resolve',
  'POST /dead-letters/{id}/retry',
]);

/** Creates products, stock and orders for later requests to refer to. */
const stockUp = async ({ api }: World, key: string, seen: Seen): Promise<void> => {
  for (const [product, price] of [
    ['demo-mug', 850],
    ['demo-lamp', 4_900],
    ['fuzzed', 1],
  ] as const) {
    const body = { name: product, unit_price_minor: price, currency: 'GBP' };
    await api.send('PUT', `/products/${product}`, { ...bearer(key), body });
    ok(await api.send('PUT', `/stock/${product}`, { ...bearer(key), body: { on_hand: 1_000_000 } }));
    seen.note('product_id', product);
  }
  for (let count = 0; count < 30; count += 1) {
    const payment = count % 3 === 0 ? { method: 'manual' } : { method: 'simulated', token: 'tok_ok' };
    const body = { customer_id: 'c-1', product_id: 'demo-mug', quantity: 3, payment };
    const { order_id } = ok(await api.send<{ order_id: string }>('POST', '/orders', { ...bearer(key), body }), 201);
    seen.note('order_id', order_id);
    if (count % 2 === 0) await api.send('POST', `/orders/${order_id}/fulfil`, bearer(key));
  }
};

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** What is wrong with an answer, if anything. */
const faultOf = (request: FuzzedRequest, answer: FuzzedAnswer, secrets: string[]): string | undefined => {
  const { status, headers, text, failed } = answer;
  const { operation, method, body } = request;
  if (status === undefined) {
    // If the server refuses an oversized body while we still send it, the answer may be lost.
    const mayBeCut = (body?.length ?? 0) > limits.bodyBytes && failed !== 'no answer in time';
    return mayBeCut ? undefined : `there is no answer: ${failed}`;
  }
  const secret = secrets.find((it) => text.includes(it) || JSON.stringify(headers).includes(it));
  if (secret !== undefined) return 'it tells a secret';
  if (status >= 500 && !isOverload(answer)) return 'it failed';
  const isAsDescribed = method !== operation.method || String(status) in operation.responses || anywhere.has(status);
  if (!isAsDescribed) return `the document does not say that it answers ${status}`;
  if (status < 400 || method === 'HEAD') return undefined;
  const isMiss = operation.template === '/cache' && status === 404 && text === '{"error":"key not found"}';
  return isMiss ? undefined : faultOfProblem(answer);
};

const isOverload = ({ status, headers, text }: FuzzedAnswer): boolean =>
  status === 503 &&
  Number(headers['retry-after']) >= 1 &&
  /The server is overloaded|than can be handled in time\./.test(text);

const faultOfProblem = ({ status, headers, text }: FuzzedAnswer): string | undefined => {
  if (!headers['content-type']?.startsWith('application/problem+json')) return 'the refusal is no problem document';
  const told = problem.safeParse(parsed(text));
  if (!told.success) return `the problem document is not whole: ${told.error.message}`;
  if (!isErrorCode(told.data.code)) return `the code ${told.data.code} is none`;
  if (told.data.status !== status) return 'the document has another status';
  return undefined;
};

const shown = ({ method, path, headers, body }: FuzzedRequest): string =>
  [
    `${method} ${path.slice(0, 400)}`,
    ...Object.entries(headers)
      .filter(([name]) => name !== 'authorization')
      .map(([name, value]) => `${name}: ${JSON.stringify(value).slice(0, 200)}`),
    body === undefined ? '' : JSON.stringify(body.toString('latin1').slice(0, 1_200)),
  ].join('\n');
