/**
 * A TypeScript client of the REST API: a function an operation, generated from `docs/openapi.json`.
 *
 *     const client = createClient(createConfig({ baseUrl: 'http://127.0.0.1:3000' }));
 *     const { data, error, response } = await placeOrder({ client, body: { customer_id: 'c-1', product_id: 'p-1', quantity: 1 } });
 */
export { createClient, createConfig, type Client } from './generated/client/index.js';
export * from './generated/sdk.gen.js';
export type * from './generated/types.gen.js';
