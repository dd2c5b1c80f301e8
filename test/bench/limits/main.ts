import pg from 'pg';
import { SeededRandom } from '#testing';
import { nowMs } from '../clock.js';
import { carryOut } from '../commands.js';
import { Samples } from '../samples.js';
import { latencyOf } from '../statistics.js';
import type { LimitCommands, LimitLoad, LimitResult } from './commands.js';
import { placing, schemaFor } from './minimal-order.js';

/** Orders on each connection before the measurement, so that its statements are prepared and planned. */
const warmUpOrders = 10;
const onHand = 1_000_000_000;

let databaseUrl = '';
let products = 0;
/** Orders that the database has acknowledged since the tables were created. */
let placed = 0;

const connected = async (): Promise<pg.Client> => {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  return client;
};

/** Runs statements on a connection of its own. */
const on = async <T>(work: (client: pg.Client) => Promise<T>): Promise<T> => {
  const client = await connected();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
};

const place = async ({ shape, connections, durationMs, seed }: LimitLoad): Promise<LimitResult> => {
  const random = new SeededRandom(seed);
  const clients = await Promise.all(Array.from({ length: connections }, connected));
  const placeOne = (client: pg.Client): Promise<void> => placing[shape](client, random.integer(1, products));
  let warmedUp = 0;
  const warmUp = async (client: pg.Client): Promise<void> => {
    for (let order = 0; order < warmUpOrders; order += 1, warmedUp += 1) await placeOne(client);
  };
  await Promise.all(clients.map(warmUp));
  placed += warmedUp;

  const latencies = new Samples();
  const cpu = process.cpuUsage();
  const startedAtMs = nowMs();
  const stopAt = performance.now() + durationMs;
  const work = async (client: pg.Client): Promise<void> => {
    for (let sentAt = performance.now(); sentAt < stopAt;) {
      await placeOne(client);
      const answeredAt = performance.now();
      latencies.add(answeredAt - sentAt);
      sentAt = answeredAt;
    }
  };
  await Promise.all(clients.map(work));
  const endedAtMs = nowMs();
  const { user, system } = process.cpuUsage(cpu);
  await Promise.all(clients.map((it) => it.end()));
  const orders = latencies.taken().length;
  placed += orders;
  return { orders, startedAtMs, endedAtMs, cpuMs: (user + system) / 1_000, ...latencyOf(latencies.taken()) };
};

carryOut({
  open: async (wanted) => {
    ({ databaseUrl, products } = wanted);
    placed = 0;
    await on(async (client) => {
      await client.query(schemaFor('int'));
      await client.query('INSERT INTO products SELECT id, $2 FROM generate_series(1, $1::int) AS id', [
        products,
        onHand,
      ]);
      await client.query('ANALYZE products');
    });
  },
  place,
  count: () =>
    on(async (client) => {
      const { rows } = await client.query<{ reserved: string; orders: string }>(
        'SELECT (SELECT sum(reserved) FROM products) AS reserved, (SELECT count(*) FROM orders) AS orders',
      );
      return { reserved: Number(rows[0]!.reserved), orders: Number(rows[0]!.orders), placed };
    }),
} satisfies LimitCommands);
