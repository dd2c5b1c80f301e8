import { execFile } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { scopes, type IssuedKey } from '#contracts';
import { eventually, testDatabase } from '#testing';
import { Api, ok, type Answer, type DeadLetterPage, type Sent } from '../support/api.js';
import { fresh } from '../support/fresh.js';
import { commandsIn } from '../support/runbooks.js';
import { servicePorts, startPlan, type Shape } from '../support/shapes.js';
import { allAt, connected, query, type Row } from '../support/tables.js';

const run = promisify(execFile);

/** A client with this credential. */
class Holder extends Api {
  constructor(
    baseUrl: string,
    readonly credential: string,
  ) {
    super(baseUrl);
  }

  override send<Body = unknown>(method: string, path: string, sent: Sent = {}): Promise<Answer<Body>> {
    return super.send<Body>(method, path, {
      ...sent,
      headers: { authorization: `Bearer ${this.credential}`, ...sent.headers },
    });
  }
}

describe('the runbooks', () => {
  let shape: Shape;
  let url: string;
  let shop: Holder;
  const admin = randomBytes(32).toString('hex');

  beforeAll(async () => {
    const database = await testDatabase();
    url = database.url;
    const [port] = await servicePorts(1);
    const environment = {
      ...{ DATABASE_URL: url, ADMIN_KEY: admin, WEBHOOKS_ALLOW_PRIVATE: 'true' },
      ...{ ORDER_COMMIT: 'two-phase', ORDER_IN_DOUBT_MS: '600' },
    };
    shape = await startPlan('operated', {
      services: [{ app: 'monolith', port: port!, environment }],
      databaseUrls: () => Promise.resolve(allAt(url)),
      release: () => database.stop(),
    });
    shop = new Holder(shape.baseUrl, (await newKey()).key);
  });
  afterAll(() => shape?.stop());

  const newKey = async (): Promise<IssuedKey> => {
    const operator = new Holder(shape.baseUrl, admin);
    return ok(await operator.send<IssuedKey>('POST', '/keys', { body: { name: fresh('key'), scopes } }), 201);
  };

  /** The output of a shell command, run as an operator would. */
  const given = async (command: string, more: Record<string, string> = {}): Promise<string> => {
    const env = { PATH: process.env['PATH'], CLEAVE: shape.baseUrl, ADMIN_KEY: admin, KEY: shop.credential, ...more };
    return (await run('bash', ['-euo', 'pipefail', '-c', command], { env })).stdout;
  };
  const asked = <R extends Row>(text: string): Promise<R[]> => query<R>(url, text);
  const end = (pid: number): Promise<Row[]> => asked(`SELECT pg_terminate_backend(${pid})`);

  it('for dead letters find, retry and close them', async () => {
    const [list, retry, resolve] = commandsIn('Dead letters', 'sh');
    const product_id = await shop.product();
    const payment = { method: 'simulated', token: fresh('tok_slow_capture_refused') };
    const order = await shop.placed({ customer_id: 'c', product_id, quantity: 1, payment });
    await eventually(async () => expect((await shop.order(order.order_id)).status).toBe('confirmed'));
    ok(await shop.fulfil(order.order_id));
    const letter = () =>
      eventually(async () => {
        const { data } = JSON.parse(await given(list!)) as DeadLetterPage;
        const found = data.find((it) => it.order_id === order.order_id);
        expect(found).toMatchObject({ step: 'capture', result: { refused_for: 'card-expired' } });
        return found!;
      });
    const captures = async () =>
      (await shop.payment(order.order_id)).operations.filter((it) => it.kind === 'capture').length;
    const { saga_id } = await letter();
    const before = await captures();
    await given(retry!, { SAGA: saga_id });
    await eventually(async () => expect(await captures()).toBeGreaterThan(before));
    await letter();
    await given(resolve!, { SAGA: saga_id });
    expect(JSON.parse(await given(list!))).toMatchObject({ data: [] });
  });

  it('for webhooks redeliver what a failed endpoint missed', async () => {
    const [endpoints, failed, enable, redeliver] = commandsIn('Webhooks that were not delivered', 'sh');
    let isMended = false;
    const heard: string[] = [];
    const receiver = createServer((request, response) => {
      if (isMended) heard.push(String(request.headers['webhook-id']));
      response.writeHead(isMended ? 204 : 410).end();
    });
    receiver.unref().listen(0, '127.0.0.1');
    await once(receiver, 'listening');
    try {
      const at = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`;
      ok(await shop.send('POST', '/webhook-endpoints', { body: { url: at } }), 201);
      await shop.placed({ customer_id: 'c', product_id: await shop.product(), quantity: 1 });
      const [endpoint] = await eventually(async () => {
        const { data } = JSON.parse(await given(endpoints!)) as { data: { endpoint_id: string }[] };
        expect(data).toMatchObject([{ enabled: false, disabled_reason: expect.stringContaining('410') }]);
        return data;
      });
      const ENDPOINT = endpoint!.endpoint_id;
      // The state after the last attempt, three days later.
      const ended = await asked<{ message_id: string }>(
        `UPDATE webhooks.deliveries SET status = 'failed' WHERE endpoint_id = '${ENDPOINT}' RETURNING message_id`,
      );
      const { data } = JSON.parse(await given(failed!, { ENDPOINT })) as { data: { message_id: string }[] };
      expect(data).toEqual(ended.map((it) => expect.objectContaining(it)));
      isMended = true;
      await given(enable!, { ENDPOINT });
      expect(JSON.parse(await given(redeliver!, { ENDPOINT }))).toEqual({ redelivered: 1, more: false });
      await eventually(() => Promise.resolve(expect(heard).toEqual([data[0]!.message_id])));
    } finally {
      receiver.close();
    }
  });

  it('for in-doubt transactions list those that order does not finish, and the decision for each', async () => {
    const [list, decide] = commandsIn('In-doubt transactions', 'sql');
    const client = await connected(url);
    const prepared = async (branch: string): Promise<void> => {
      await client.query('BEGIN');
      await client.query(`INSERT INTO inventory.settings VALUES ($1, 'x')`, [branch]);
      await client.query(`PREPARE TRANSACTION 'cleave:${branch}'`);
    };
    const stood = async (branch: string) =>
      (await asked(`SELECT FROM inventory.settings WHERE name = '${branch}'`)).length > 0;
    try {
      // On a busy machine, order may have finished one before it is listed.
      const left = await eventually(async () => {
        const branch = randomUUID();
        await prepared(branch);
        expect(await asked(list!)).toMatchObject([{ gid: `cleave:${branch}` }]);
        return branch;
      });
      await eventually(async () => expect(await asked(list!)).toEqual([]));
      expect(await stood(left)).toBe(false);

      expect(await shape.service('monolith').kill('SIGTERM')).toEqual({ code: 0, signal: null });
      const [undecided, decided] = [randomUUID(), randomUUID()];
      for (const branch of [undecided, decided]) await prepared(branch);
      await asked(`INSERT INTO orders.branch_decisions VALUES ('${decided}', 'commit')`);
      const gids = (await asked<{ gid: string }>(list!)).map(({ gid }) => gid);
      expect(gids).toEqual([undecided, decided].map((it) => `cleave:${it}`));
      for (const gid of gids) {
        const [way] = await asked<{ outcome: string }>(decide!.replace('THE ID', gid.slice('cleave:'.length)));
        await asked(`${way!.outcome === 'commit' ? 'COMMIT' : 'ROLLBACK'} PREPARED '${gid}'`);
      }
      expect(await asked(list!)).toEqual([]);
      expect([await stood(undecided), await stood(decided)]).toEqual([false, true]);
      await asked(`DELETE FROM inventory.settings WHERE name = '${decided}'`);
    } finally {
      await client.end();
      if (!shape.service('monolith').isRunning) await shape.service('monolith').restart();
    }
  });

  it('for a stuck relay find the session that holds it back', async () => {
    const [behind] = commandsIn('What to look at', 'sql');
    const [open] = commandsIn('A relay that stands still', 'sql');
    const holder = await connected(url);
    holder.on('error', () => undefined);
    await holder.query(`SET application_name = 'a forgotten session'`);
    await holder.query('BEGIN; SELECT pg_current_xact_id()');
    const stock = async () => (await asked<{ consumer: string; seconds: string | null }>(behind!))[0];
    await shop.placed({ customer_id: 'c', product_id: await shop.product(), quantity: 1 });
    await eventually(async () => expect(Number((await stock())!.seconds)).toBeGreaterThan(0.5));
    const found = (await asked<{ pid: number; application_name: string }>(open!)).find(
      (it) => it.application_name === 'a forgotten session',
    );
    expect(found).toMatchObject({ state: 'idle in transaction' });
    await end(found!.pid);
    await eventually(async () => expect(await stock()).toMatchObject({ consumer: 'stock', seconds: null }));
  });

  it('for an exhausted pool find the session that blocks all others', async () => {
    const [blocking, connections] = commandsIn('A pool that is exhausted', 'sql');
    const product_id = await shop.product({ onHand: 100 });
    const holder = await connected(url);
    holder.on('error', () => undefined);
    await holder.query(`SET application_name = 'somebody by hand'`);
    await holder.query('BEGIN; LOCK TABLE orders.orders IN ACCESS EXCLUSIVE MODE');
    const orders = Array.from({ length: 20 }, () => shop.place({ customer_id: 'c', product_id, quantity: 1 }));
    const reads = Array.from({ length: 20 }, () => shop.get('/orders?limit=1'));
    const pending = /^db_client_connection_pending_requests\{[^}]*"order"[^}]*\} ([1-9]\d*)$/m;
    await eventually(async () => expect((await shop.get('/metrics')).text).toMatch(pending), 4_000);
    const [first] = await asked<{ pid: number }>(blocking!);
    expect(first).toMatchObject({ application_name: 'somebody by hand', state: 'idle in transaction' });
    const most = await asked<{ application_name: string; connections: number }>(connections!);
    expect(most.find((it) => it.application_name === 'cleave-order')!.connections).toBeGreaterThan(0);
    await end(first!.pid);
    // On a slow machine all may have been refused with 503 before the session was ended.
    const answers = await Promise.all([...orders, ...reads]);
    expect(answers.map(({ status }) => status).filter((it) => ![200, 201, 503].includes(it))).toEqual([]);
    ok(await shop.place({ customer_id: 'c', product_id, quantity: 1 }), 201);
  });

  it('for leaked keys find the key and revoke it at once', async () => {
    const [list, revoke] = commandsIn('Keys that leaked', 'sh');
    const leaked = await newKey();
    const thief = new Holder(shape.baseUrl, leaked.key);
    ok(await thief.get('/orders'));
    const { data } = JSON.parse(await given(list!)) as { data: IssuedKey[] };
    const { key_id } = data.find((it) => it.name === leaked.name)!;
    expect(leaked.key.slice(3, 35)).toBe(key_id.replaceAll('-', ''));
    await given(revoke!, { KEY_ID: key_id });
    expect((await thief.get('/orders')).status).toBe(401);
    ok(await shop.get('/orders'));
    // The id within the key is enough, which is all that a log contains.
    const { key } = await newKey();
    await given(revoke!, { KEY_ID: key.slice(3, 35) });
    expect((await new Holder(shape.baseUrl, key).get('/orders')).status).toBe(401);
  });

  it('for a full disk show what retains WAL and what is large', async () => {
    const [slots, archiver, large] = commandsIn('A full disk', 'sql');
    expect(await asked(slots!)).toEqual([]);
    expect(await asked(archiver!)).toMatchObject([{ failed_count: expect.anything() }]);
    expect(await asked(large!)).toHaveLength(10);
  });
});
