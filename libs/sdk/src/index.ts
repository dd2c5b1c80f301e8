/**
 * The client of the REST API.
 *
 *     const cleave = new Cleave({ baseUrl: 'http://127.0.0.1:3000' });
 *     const order = await cleave.orders.place({ customer_id: 'c-1', product_id: 'demo-mug', quantity: 1 });
 */
export { Cleave } from './cleave.js';
export { CleaveApiError, type ProblemDocument } from './errors.js';
export type { FollowOptions } from './follow.js';
export type { Listing, Page } from './listing.js';
export { resources } from './resources.js';
export type { CallOptions, CleaveOptions } from './transport.js';
export type * from './generated/types.gen.js';
