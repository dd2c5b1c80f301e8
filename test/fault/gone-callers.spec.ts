import { setTimeout } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from '@jest/globals';
import { Api, ok, type OrderPage } from '../support/api.js';
import { GrpcApi } from '../support/grpc.js';
import { startProxied, type ProxiedShape } from '../support/proxied-shapes.js';
import { servicePorts } from '../support/shapes.js';

let shape: ProxiedShape;
let grpc: GrpcApi;

beforeAll(async () => {
  const [port] = await servicePorts(1);
  const grpcAt = `127.0.0.1:${port}`;
  shape = await startProxied('split', { ORDER_GRPC_LISTEN: grpcAt });
  grpc = new GrpcApi(grpcAt);
});
afterAll(async () => {
  grpc?.close();
  await shape?.stop();
});

/** The number of concurrent batches. */
const lanes = 2;
/** Long enough for gateway and order to notice that the caller has disconnected. */
const noticedWithinMs = 500;

it('a queued order is dropped when its caller disconnects; an order in a running batch is placed', async () => {
  const api = new Api(shape.baseUrl);
  const product_id = await api.product({ onHand: 10 });
  const placedBy = async (customer: string): Promise<number> =>
    ok(await api.get<OrderPage>(`/orders?customer_id=${customer}`)).data.length;
  const place = (customer_id: string, signal: AbortSignal): Promise<unknown> =>
    fetch(`${shape.baseUrl}/orders`, {
      ...{ method: 'POST', headers: { 'content-type': 'application/json' }, signal },
      body: JSON.stringify({ customer_id, product_id, quantity: 1 }),
    }).then(
      ({ status }) => status,
      ({ name }: Error) => name,
    );
  const leaving = new AbortController();
  const staying = new AbortController();
  const held = [];
  const answers = [];
  for (let lane = 0; lane < lanes; lane += 1) {
    const caught = shape.proxies.inventory.next({ statement: 'inventory-reserve', moment: 'before' });
    answers.push(place(`begun-${lane}`, lane === 0 ? leaving.signal : staying.signal));
    held.push(await caught);
  }
  answers.push(place('waits', leaving.signal), place('stays', staying.signal));
  const overGrpc = { customer_id: 'waits-over-grpc', lines: [{ product_id, quantity: 1 }] };
  const refused = grpc.refused('PlaceOrder', overGrpc, { signal: leaving.signal });
  await setTimeout(noticedWithinMs);
  leaving.abort();
  await setTimeout(noticedWithinMs);
  for (const it of held) it.pass();
  expect(await Promise.all(answers)).toEqual(['AbortError', 201, 'AbortError', 201]);
  expect(await refused).toMatchObject({ code: 'CANCELLED' });
  const customers = ['begun-0', 'begun-1', 'stays', 'waits', 'waits-over-grpc'];
  expect(await Promise.all(customers.map(placedBy))).toEqual([1, 1, 1, 0, 0]);
});
