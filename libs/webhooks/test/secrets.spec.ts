import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { SeededRandom, eventually, testDatabase, type TestDatabase } from '#testing';
import type { MasterKey } from '#security';
import { Receiver, verified } from './receiver.js';
import { masterKey, newTenant, placed, startInstance, type Instance } from './webhooks-under-test.js';

const [old, young] = [masterKey('2025'), masterKey('2026')];
const random = new SeededRandom();

let database: TestDatabase;
let started: Instance[];
let receiver: Receiver;
let tenant: string;

beforeEach(async () => {
  tenant = newTenant();
  started = [];
  database = await testDatabase();
  receiver = await new Receiver().start();
});
afterEach(async () => {
  await Promise.all(started.map((it) => it.stop()));
  await receiver.stop();
  await database.stop();
});

const start = async (keys: readonly MasterKey[], limits: object = {}): Promise<Instance> => {
  const instance = await startInstance(database.url, { DATA_KEYS: [...keys], limits });
  started.push(instance);
  return instance;
};
const stop = async (instance: Instance): Promise<void> => {
  started = started.filter((it) => it !== instance);
  await instance.stop();
};

const register = (at: Instance) => at.endpoints.register(tenant, { url: receiver.url() });

/** Everything in the tables of webhooks, as text. */
const dump = async ({ sql }: Instance): Promise<string> => {
  const tables = await sql.query<{ name: string }>({
    name: 'test-tables',
    text: `SELECT tablename::text AS name FROM pg_tables WHERE schemaname = 'webhooks'`,
  });
  const rows = await Promise.all(
    tables.map(({ name }) =>
      sql.query<{ row: string }>({ name: `test-all-${name}`, text: `SELECT t::text AS row FROM webhooks.${name} t` }),
    ),
  );
  return rows
    .flat()
    .map((it) => it.row)
    .join('\n');
};

const expectHidden = async (at: Instance, ...secrets: string[]): Promise<void> => {
  const text = await dump(at);
  for (const secret of secrets) {
    const bare = secret.slice('whsec_'.length);
    const forms = [bare, Buffer.from(bare, 'base64').toString('hex'), Buffer.from(secret).toString('base64')];
    for (const form of forms) expect(text).not.toContain(form.slice(0, 20));
  }
};

const deliveryTo = async (at: Instance, endpointId: string) =>
  (await at.deliveries.list(tenant, endpointId, undefined, undefined, 1)).data[0]!;

/** Sends a message, and verifies it with each of the secrets. */
const expectSigned = async (at: Instance, ...secrets: string[]): Promise<void> => {
  const before = receiver.received.length;
  await at.accept(placed(tenant));
  await eventually(() => expect(receiver.received).toHaveLength(before + 1));
  for (const secret of secrets) verified(receiver.received.at(-1)!, secret);
};

describe('the secret of an endpoint', () => {
  it('is stored encrypted, can be read back, and signs together with the previous secret', async () => {
    const one = await start([old]);
    const { endpoint_id, secret } = await register(one);
    expect((await one.endpoints.secretOf(tenant, endpoint_id)).secret).toBe(secret);
    const rotated = await one.endpoints.rotate(tenant, endpoint_id);
    expect(await one.endpoints.secretOf(tenant, endpoint_id)).toEqual(rotated);
    await expectSigned(one, secret, rotated.secret);
    await expectHidden(one, secret, rotated.secret);
    expect(await dump(one)).toContain(endpoint_id);
  });

  it('cannot be decrypted when it is copied to the row of another endpoint', async () => {
    const one = await start([old]);
    const [mine, theirs] = [await register(one), await register(one)];
    await one.sql.query(
      {
        name: 'test-swap',
        text: `UPDATE webhooks.endpoints e SET secrets = o.secrets FROM webhooks.endpoints o
          WHERE e.endpoint_id = $1 AND o.endpoint_id = $2`,
      },
      [mine.endpoint_id, theirs.endpoint_id],
    );
    await expect(one.endpoints.secretOf(tenant, mine.endpoint_id)).rejects.toMatchObject({ code: 'data-key-missing' });
  });

  it('is stored in plain text without DATA_KEYS, and encrypted once they are set, while messages stay signed', async () => {
    const bare = await start([]);
    const told: string[] = [];
    for (const it of [bare, await start([old])]) {
      Object.assign(it.rotateSecrets, { logger: { warn: (line: string) => void told.push(line), log: () => {} } });
      it.rotateSecrets.onModuleInit();
    }
    expect(told).toEqual([expect.stringContaining('DATA_KEYS is not set')]);
    await stop(started.at(-1)!);
    const { endpoint_id, secret } = await register(bare);
    const { secret: second } = await bare.endpoints.rotate(tenant, endpoint_id);
    await expectSigned(bare, secret, second);
    expect(await dump(bare)).toContain(second);
    await bare.rotateSecrets.execute();
    expect(await dump(bare)).toContain(secret);
    await stop(bare);

    // For a while, because the previous version may still run beside it, and reads only plain secrets.
    const careful = await start([young], { plainForMs: 60_000 });
    await careful.rotateSecrets.execute();
    expect(await dump(careful)).toContain(secret);
    await expectSigned(careful, secret, second);
    const { secret: third } = await careful.endpoints.rotate(tenant, endpoint_id);
    await expectSigned(careful, secret, second, third);
    await expectHidden(careful, third);

    const one = await start([young]);
    await Promise.all([one.rotateSecrets.execute(), one.rotateSecrets.execute()]);
    await expectHidden(one, secret, second, third);
    await expectSigned(one, secret, second, third);
    expect((await one.endpoints.secretOf(tenant, endpoint_id)).secret).toBe(third);
    expect((await one.endpoints.secretOf(tenant, endpoint_id)).previous_until).not.toBeNull();
  });

  it('cannot be overwritten by the previous version, which cannot read encrypted secrets', async () => {
    const one = await start([old]);
    const { endpoint_id, secret } = await register(one);
    const rotating = one.sql.query(
      {
        name: 'test-rotate-as-before',
        text: `UPDATE webhooks.endpoints SET secrets = jsonb_build_array(jsonb_build_object('secret', 'whsec_new'),
            jsonb_build_object('secret', secrets->0->>'secret', 'until', now() + interval '1 day'))
          WHERE endpoint_id = $1`,
      },
      [endpoint_id],
    );
    await expect(rotating).rejects.toThrow('secrets_are_kept');
    expect((await one.endpoints.secretOf(tenant, endpoint_id)).secret).toBe(secret);
  });

  it('is deleted once it has expired', async () => {
    const one = await start([old]);
    const { endpoint_id, secret } = await register(one);
    const { secret: second } = await one.endpoints.rotate(tenant, endpoint_id);
    await one.sql.query(
      {
        name: 'test-end',
        text: `UPDATE webhooks.endpoints SET secrets = jsonb_set(secrets, '{1,until}', to_jsonb(now())) WHERE tenant_id = $1`,
      },
      [tenant],
    );
    await one.rotateSecrets.execute();
    const [row] = await one.sql.query<{ count: number }>({
      name: 'test-count',
      text: 'SELECT jsonb_array_length(secrets) AS count FROM webhooks.endpoints',
    });
    expect(row!.count).toBe(1);
    await expectSigned(one, second);
    expect(() => verified(receiver.received.at(-1)!, secret)).toThrow();
  });
});

describe('DATA_KEYS', () => {
  it('are rotated while messages are sent; afterwards the old key is not needed', async () => {
    const before = await start([old, young]);
    const { endpoint_id, secret } = await register(before);
    const { secret: second } = await before.endpoints.rotate(tenant, endpoint_id);
    const [one, two] = [await start([young, old]), await start([young, old])];
    const others = await Promise.all(Array.from({ length: 20 }, () => register(random.pick([before, one]))));
    await Promise.all([
      one.rotateSecrets.execute(),
      two.rotateSecrets.execute(),
      ...[before, one, two].map((it) => it.accept(placed(tenant))),
    ]);
    await eventually(() => expect(receiver.received).toHaveLength(3 * 21));
    for (const it of [before, two]) await stop(it);
    await one.rotateSecrets.execute();
    await stop(one);

    const only = await start([young]);
    await only.rotateSecrets.execute();
    expect(await only.rotateSecrets.condition()).toEqual({ isDegraded: false, details: {} });
    for (const it of [secret, second]) expect(receiver.received.some((sent) => signedBy(sent, it))).toBe(true);
    for (const it of others) expect((await only.endpoints.secretOf(tenant, it.endpoint_id)).secret).toBe(it.secret);
    expect((await only.endpoints.secretOf(tenant, endpoint_id)).secret).toBe(second);
  });

  it('are rotated for every other endpoint if the secret of one cannot be decrypted', async () => {
    const before = await start([old]);
    const endpoints = [];
    for (let count = 0; count < 5; count += 1) endpoints.push(await register(before));
    const [changed] = endpoints;
    await before.sql.query(
      {
        name: 'test-change',
        text: `UPDATE webhooks.endpoints SET secrets = jsonb_set(secrets, '{0,sealed}', '"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"')
          WHERE endpoint_id = $1`,
      },
      [changed!.endpoint_id],
    );
    const after = await start([young, old]);
    await after.rotateSecrets.execute();
    expect(await after.rotateSecrets.condition()).toEqual({ isDegraded: true, details: { stuck: { [old.id]: 1 } } });
    const only = await start([young]);
    for (const { endpoint_id, secret } of endpoints.slice(1))
      expect((await only.endpoints.secretOf(tenant, endpoint_id)).secret).toBe(secret);
  });

  it('are rotated by several instances at once without a deadlock or a lost update', async () => {
    const one = await start([old]);
    const two = await start([old]);
    for (let count = 0; count < 40; count += 1) await register(one);
    const rows = await one.kept.under(old.id, undefined, 100);
    expect(rows).toHaveLength(40);
    const swapped = rows.map((before) => ({ before, after: before }));
    for (let round = 0; round < 20; round += 1)
      await Promise.all(
        Array.from({ length: 6 }, (_, index) => (index % 2 ? one : two).kept.replace(random.shuffled(swapped))),
      );
    const { secret } = await one.endpoints.rotate(tenant, rows[0]!.endpointId);
    await two.kept.replace(swapped);
    expect((await two.endpoints.secretOf(tenant, rows[0]!.endpointId)).secret).toBe(secret);
  });

  it('without the key of a secret leave deliveries pending, with the reason and no attempt counted, until it is set', async () => {
    const before = await start([old]);
    const { endpoint_id, secret } = await register(before);
    await stop(before);

    const without = await start([young]);
    await without.rotateSecrets.execute();
    expect(await without.rotateSecrets.condition()).toEqual({ isDegraded: true, details: { missing: [old.id] } });
    const ready = (await (await fetch(`${without.url}/health/ready`)).json()) as { status: string };
    expect(ready.status).toBe('degraded');
    await expect(without.endpoints.secretOf(tenant, endpoint_id)).rejects.toMatchObject({
      ...{ code: 'data-key-missing', status: 503, detail: expect.stringContaining(old.id) },
    });
    const other = await register(without);
    await without.accept(placed(tenant));
    // More often than there are attempts.
    for (let tries = 0; tries < 5; tries += 1) {
      const seen = await epochOf(without, endpoint_id);
      await eventually(async () => expect(await epochOf(without, endpoint_id)).toBeGreaterThan(seen));
    }
    await eventually(async () => expect((await deliveryTo(without, other.endpoint_id)).status).toBe('delivered'));
    const waiting = await deliveryTo(without, endpoint_id);
    expect(waiting).toMatchObject({ status: 'pending', attempts: 0, last_error: expect.stringContaining('DATA_KEYS') });
    expect(waiting.last_error).toContain(old.id);
    expect(receiver.received).toHaveLength(1);
    await stop(without);

    const again = await start([young, old]);
    await eventually(async () =>
      expect(await deliveryTo(again, endpoint_id)).toMatchObject({
        status: 'delivered',
        attempts: 1,
        last_error: null,
      }),
    );
    expect(receiver.received).toHaveLength(2);
    verified(receiver.received.at(-1)!, secret);
  });

  it('without the key of a secret leave deliveries to an instance that has it, which sends them at once', async () => {
    const before = await start([old]);
    const { endpoint_id, secret } = await register(before);
    await stop(before);

    const without = await start([young], { unsignedMs: 600_000 });
    const other = await register(without);
    for (let count = 0; count < 20; count += 1) await without.accept(placed(tenant));
    await eventually(async () =>
      expect((await without.deliveries.list(tenant, other.endpoint_id, 'delivered', undefined, 50)).data).toHaveLength(
        20,
      ),
    );
    expect(await epochOf(without, endpoint_id)).toBe(0);
    expect(await deliveryTo(without, endpoint_id)).toMatchObject({ status: 'pending', last_error: null });

    const having = await start([old, young]);
    await eventually(async () =>
      expect((await having.deliveries.list(tenant, endpoint_id, 'delivered', undefined, 50)).data).toHaveLength(20),
    );
    expect(await epochOf(having, endpoint_id)).toBe(1);
    expect(receiver.received.filter((it) => signedBy(it, secret))).toHaveLength(20);
  });

  it('are not needed for an expired secret: messages are signed with the current plain one at once', async () => {
    const before = await start([old]);
    const { endpoint_id } = await register(before);
    const { secret } = await before.endpoints.rotate(tenant, endpoint_id);
    await before.sql.query(
      {
        name: 'test-mix',
        text: `UPDATE webhooks.endpoints SET secrets = jsonb_build_array(jsonb_build_object('secret', $2::text),
            secrets->1 || jsonb_build_object('until', now() - interval '1 second')) WHERE endpoint_id = $1`,
      },
      [endpoint_id, secret],
    );
    await stop(before);
    for (const keys of [[], [young]]) {
      const without = await start(keys, { unsignedMs: 600_000, plainForMs: 600_000 });
      await expectSigned(without, secret);
      await stop(without);
    }
  });

  it('that are lost block an endpoint only until its secret is rotated', async () => {
    const before = await start([old]);
    const { endpoint_id } = await register(before);
    await before.endpoints.rotate(tenant, endpoint_id);
    await stop(before);

    const after = await start([young]);
    await after.accept(placed(tenant));
    await eventually(async () =>
      expect(await deliveryTo(after, endpoint_id)).toMatchObject({ attempts: 0, last_error: expect.any(String) }),
    );
    const { secret, previous_until } = await after.endpoints.rotate(tenant, endpoint_id);
    expect(previous_until).toBeNull();
    await eventually(async () => expect((await deliveryTo(after, endpoint_id)).status).toBe('delivered'));
    verified(receiver.received.at(-1)!, secret);
    // Secrets that can be decrypted stay valid for their time.
    expect((await after.endpoints.rotate(tenant, endpoint_id)).previous_until).not.toBeNull();
  });

  it('that used one id for two keys decrypt all secrets once one of the keys gets another id', async () => {
    const twin = { id: old.id, key: young.key };
    const one = await start([old]);
    const other = await start([twin]);
    const mine = await register(one);
    const yours = await register(other);
    await expect(one.endpoints.secretOf(tenant, yours.endpoint_id)).rejects.toMatchObject({ code: 'data-key-missing' });
    const both = await start([young, old]);
    for (const { endpoint_id, secret } of [mine, yours])
      expect((await both.endpoints.secretOf(tenant, endpoint_id)).secret).toBe(secret);
    await both.rotateSecrets.execute();
    const alone = await start([young]);
    for (const { endpoint_id, secret } of [mine, yours])
      expect((await alone.endpoints.secretOf(tenant, endpoint_id)).secret).toBe(secret);
  });
});

const signedBy = (sent: Parameters<typeof verified>[0], secret: string): boolean => {
  try {
    verified(sent, secret);
    return true;
  } catch {
    return false;
  }
};

/** How often deliveries to an endpoint were claimed. */
const epochOf = async ({ sql }: Instance, endpointId: string): Promise<number> => {
  const [row] = await sql.query<{ epoch: number }>(
    { name: 'test-epoch', text: 'SELECT max(epoch) AS epoch FROM webhooks.deliveries WHERE endpoint_id = $1' },
    [endpointId],
  );
  return Number(row!.epoch);
};
